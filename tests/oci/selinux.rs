//! SELinux labels of the container's program, of exec, of mounts and of the session keyring.

use crate::harness::{Env, Need, Test, test};
use serde_json::{Value, json};

const LABEL: &str = "system_u:system_r:container_t:s0:c4,c5";
const OTHER: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c4,c5";

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(program_and_exec_are_labelled),
        test!(label_in_a_user_namespace),
        test!(label_under_no_new_privileges),
        test!(exec_takes_another_label),
        test!(mounts_are_labelled),
        test!(label_that_the_policy_lacks_is_named),
    ];
    let needs = |test: Test| test.needs(Need::SeLinux);
    tests.into_iter().map(needs).collect()
}

/// Ends the test where the policy does not know the labels that container policies have.
fn need_labels(env: &Env) {
    for label in [LABEL, OTHER, FILES] {
        if let Err(e) = std::fs::write("/sys/fs/selinux/context", label) {
            env.skip(format!("the policy has no label {label}: {e}"));
        }
    }
}

fn label(facts: &Value) -> (&str, &str) {
    let text = |key: &str| facts[key].as_str().unwrap_or("none").trim_end_matches('\0');
    (text("label"), text("session_keyring_label"))
}

fn program_and_exec_are_labelled(env: &Env) {
    need_labels(env);
    let mut bundle = env.bundle();
    bundle
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/selinuxLabel", json!(LABEL));
    assert_eq!(label(&bundle.facts()), (LABEL, LABEL));
    let container = bundle.sleeper();
    assert_eq!(label(&container.exec_facts(&[])), (LABEL, LABEL));
}

fn label_in_a_user_namespace(env: &Env) {
    need_labels(env);
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/selinuxLabel", json!(LABEL));
    assert_eq!(label(&bundle.facts()), (LABEL, LABEL));
    let container = bundle.sleeper();
    assert_eq!(label(&container.exec_facts(&[])), (LABEL, LABEL));
}

fn label_under_no_new_privileges(env: &Env) {
    need_labels(env);
    let mut bundle = env.bundle();
    bundle
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/selinuxLabel", json!(LABEL));
    assert_eq!(label(&bundle.facts()).0, LABEL);
}

fn exec_takes_another_label(env: &Env) {
    need_labels(env);
    let mut bundle = env.bundle();
    bundle
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/selinuxLabel", json!(LABEL));
    let container = bundle.sleeper();
    let facts = container.exec_facts(&["--process-label", OTHER]);
    // The keyring is the container's, and was there before.
    assert_eq!(label(&facts), (OTHER, LABEL));
}

fn mounts_are_labelled(env: &Env) {
    need_labels(env);
    let mut bundle = env.bundle();
    bundle.set("/linux/mountLabel", json!(FILES));
    bundle.set("/linux/maskedPaths", json!(["/proc/acpi", "/sys/firmware"]));
    let facts = bundle.facts();
    let mounts = facts["mounts"].as_array().unwrap();
    for target in ["/dev", "/dev/shm", "/sys/firmware"] {
        let mount = mounts.iter().find(|m| m["target"] == target).unwrap();
        let options = mount["super"].as_str().unwrap();
        assert!(
            options.contains("context=") && options.contains("container_file_t"),
            "{target}: {options}"
        );
    }
}

fn label_that_the_policy_lacks_is_named(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/selinuxLabel", json!("no:such:label:s0"));
    let refused = bundle.refused();
    if env.rt.is_rcrun() {
        refused.says("no:such:label:s0");
    }
}
