//! AppArmor profiles of the container's program and of exec (apparmor.d(5)).

use crate::harness::{Env, Need, Test, test};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(profile_confines_program_and_exec),
        test!(profile_without_no_new_privileges),
        test!(profile_in_a_user_namespace),
        test!(exec_takes_another_profile),
        test!(profile_that_is_not_loaded_is_named),
        test!(unconfined_is_a_profile),
    ];
    let needs = |test: Test| {
        test.needs(Need::AppArmor)
            .needs(Need::Program("apparmor_parser"))
    };
    tests.into_iter().map(needs).collect()
}

/// A profile in the kernel, as long as this lives.
struct Profile {
    name: String,
    file: PathBuf,
}

impl Profile {
    /// Everything is allowed but to read `/DENIED`.
    fn load(env: &Env, denied: &str) -> Self {
        let name = format!("rcrun-test-{}", env.unique());
        let file = env.path(&name);
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  \
             network,\n  mount,\n  umount,\n  pivot_root,\n  ptrace,\n  signal,\n  unix,\n  \
             deny /{denied} r,\n}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let profile = Self { name, file };
        profile.parser("--replace");
        profile
    }

    fn parser(&self, verb: &str) {
        let output = Command::new("apparmor_parser")
            .args([verb, "--skip-cache"])
            .arg(&self.file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "apparmor_parser {verb}: {output:?}"
        );
    }

    fn enforced(&self) -> String {
        format!("{} (enforce)\n", self.name)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

const CURRENT: &str = "read:/proc/self/attr/apparmor/current";

fn profile_confines_program_and_exec(env: &Env) {
    let profile = Profile::load(env, "secret");
    let mut bundle = env.bundle();
    bundle.file("secret", "s3cret");
    bundle.file("public", "p");
    assert_eq!(
        bundle.attempts(&["read:/secret"])[0].0,
        0,
        "without profile"
    );
    bundle.set("/process/apparmorProfile", json!(profile.name));
    let attempts = bundle.attempts(&[CURRENT, "read:/secret", "read:/public"]);
    assert_eq!(attempts[0], (0, profile.enforced()));
    assert_eq!(attempts[1].0, libc::EACCES);
    assert_eq!(attempts[2], (0, "p".into()));
    let container = bundle.sleeper();
    let attempts = container.exec_attempts(&[], &[CURRENT, "read:/secret"]);
    assert_eq!(attempts[0], (0, profile.enforced()));
    assert_eq!(attempts[1].0, libc::EACCES);
}

fn profile_without_no_new_privileges(env: &Env) {
    let profile = Profile::load(env, "secret");
    let mut bundle = env.bundle();
    bundle
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/apparmorProfile", json!(profile.name));
    assert_eq!(bundle.attempts(&[CURRENT])[0], (0, profile.enforced()));
}

fn profile_in_a_user_namespace(env: &Env) {
    let profile = Profile::load(env, "secret");
    let mut bundle = env.bundle();
    bundle.userns();
    bundle.set("/process/apparmorProfile", json!(profile.name));
    let container = bundle.sleeper();
    let attempts = container.exec_attempts(&[], &[CURRENT]);
    assert_eq!(attempts[0], (0, profile.enforced()));
}

fn exec_takes_another_profile(env: &Env) {
    let (first, second) = (Profile::load(env, "one"), Profile::load(env, "two"));
    let mut bundle = env.bundle();
    bundle.file("one", "1");
    bundle.file("two", "2");
    bundle.set("/process/apparmorProfile", json!(first.name));
    let container = bundle.sleeper();
    let attempts = container.exec_attempts(
        &["--apparmor", &second.name],
        &[CURRENT, "read:/one", "read:/two"],
    );
    assert_eq!(attempts[0], (0, second.enforced()));
    assert_eq!((attempts[1].0, attempts[2].0), (0, libc::EACCES));
    let file = env.path("process.json");
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "cwd": "/", "apparmorProfile": second.name,
        "args": ["/bin/probe", "try", CURRENT]
    });
    std::fs::write(&file, process.to_string()).unwrap();
    let flags = ["--process", file.to_str().unwrap()];
    let printed = container.exec_with(&flags, &[]).ok().json();
    assert_eq!(printed[0]["text"], second.enforced());
}

fn profile_that_is_not_loaded_is_named(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/apparmorProfile", json!("not-loaded"));
    bundle.refused().says("apparmor");
    bundle.unset("/process", "apparmorProfile");
    let container = bundle.sleeper();
    let refused = container.exec_with(&["--apparmor", "not-loaded"], &["true"]);
    let refused = refused.exits(255).says("apparmor");
    if env.rt.is_rcrun() {
        refused.says("not-loaded").says("is it loaded");
    }
}

fn unconfined_is_a_profile(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/apparmorProfile", json!("unconfined"));
    assert_eq!(bundle.attempts(&[CURRENT])[0], (0, "unconfined\n".into()));
}
