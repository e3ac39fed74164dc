//! The runner: the suite's directory, the base root file system, and one isolated process per test.

use super::{Need, Test, cgroup, process, stage, users};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};

/// Programs that tests call by name; every one is a symlink to busybox.
const APPLETS: &[&str] = &[
    "ash", "awk", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "echo",
    "env", "false", "find", "getopt", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls",
    "mkdir", "mkfifo", "mknod", "mount", "mv", "nc", "printf", "ps", "pwd", "readlink", "rm",
    "rmdir", "sed", "setsid", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "tee", "test",
    "timeout", "top", "touch", "tr", "true", "tty", "umount", "uname", "unshare", "usleep", "wc",
    "xargs", "yes",
];

/// What all tests of one run share.
#[derive(Debug)]
pub(crate) struct Suite {
    dir: PathBuf,
    runtime: PathBuf,
    is_rcrun: bool,
    /// The same program where ordinary users may execute it, once one has to.
    open: OnceLock<PathBuf>,
}

pub(crate) fn main(tests: Vec<Test>) -> ExitCode {
    let args = Arguments::from_args();
    let suite = match Suite::prepare() {
        Ok(suite) => Arc::new(suite),
        Err(problem) => {
            eprintln!("cannot run the suite: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let trials = tests
        .into_iter()
        .enumerate()
        .map(|(index, test)| {
            let suite = Arc::clone(&suite);
            Trial::ignorable_test(test.name.clone(), move || suite.run(index, &test))
        })
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    suite.remove();
    conclusion.exit_code()
}

/// Whether profiles can be loaded.
fn app_armor() -> bool {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with(b"Y"))
        && Path::new("/sys/kernel/security/apparmor/.load").exists()
}

impl Suite {
    fn prepare() -> Result<Self, String> {
        if !rustix::process::getuid().is_root() {
            return Err("it creates containers and needs root".into());
        }
        let runtime = match std::env::var_os("RCRUN_RUNTIME") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(env!("CARGO_BIN_EXE_rcrun")),
        };
        let runtime = process::which(&runtime)
            .ok_or_else(|| format!("no runtime at {}", runtime.display()))?;
        let is_rcrun = runtime.file_name().is_some_and(|name| name == "rcrun");
        let top = std::env::temp_dir();
        remove_stale(&top);
        cgroup::remove_stale();
        let dir = top.join(format!("rcrun-tests-{}", std::process::id()));
        let make = || -> std::io::Result<()> {
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
            make_base(&dir.join("base"))
        };
        make().map_err(|e| format!("cannot prepare {}: {e}", dir.display()))?;
        Ok(Self {
            dir,
            runtime,
            is_rcrun,
            open: OnceLock::new(),
        })
    }

    fn run(&self, index: usize, test: &Test) -> Result<Completion, Failed> {
        if let Some(reason) = test.only_rcrun.filter(|_| !self.is_rcrun) {
            return Ok(Completion::ignored_with(format!("only rcrun: {reason}")));
        }
        if let Some(lack) = test.needs.iter().find_map(|need| self.lacks(*need)) {
            return Ok(Completion::ignored_with(lack));
        }
        let user = test.user || users::wanted();
        if let Some(lack) = Some(test).filter(|_| user).and_then(|t| self.refused(t)) {
            return Ok(Completion::ignored_with(lack));
        }
        let tag = format!("rt{}-{index}", std::process::id());
        let dir = self.dir.join(&tag);
        let log_path = self.dir.join(format!("{tag}.log"));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let log = File::create(&log_path)?;
        let needs_pids = test.needs.iter().any(|need| matches!(need, Need::Systemd));
        let mut child = Command::new(std::env::current_exe()?)
            .env_clear()
            .env("PATH", super::criu::search_path())
            .env(
                "RCRUN_TEST_FULL",
                std::env::var("RCRUN_TEST_FULL").unwrap_or_default(),
            )
            .env(users::USER, if user { "1" } else { "" })
            .env("HOST_SECRET", "canary-of-the-host")
            .env(stage::STAGE, stage::ISOLATE)
            .env(stage::TEST, &test.name)
            .env(stage::HOST_PIDS, if needs_pids { "1" } else { "" })
            .env(stage::DIR, &dir)
            .env(
                stage::RUNTIME,
                if user { self.open() } else { &self.runtime },
            )
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let limit = if super::full() {
            test.timeout * 20
        } else {
            test.timeout
        };
        let status = process::wait_for(&mut child, limit)?;
        let timed_out = status.is_none();
        let mut processes = String::new();
        let status = match status {
            Some(status) => status,
            None => {
                processes = process::table();
                cgroup::thaw(&tag);
                child.kill()?;
                child.wait()?
            }
        };
        let stuck = cgroup::remove(&tag);
        let text = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
        let _ = fs::remove_file(&log_path);
        let removed = fs::remove_dir_all(&dir);
        if timed_out {
            return Err(format!("no end after {limit:?}\n{text}\n{processes}").into());
        }
        match status.code() {
            Some(0) => {}
            Some(stage::SKIPPED) => {
                let reason = text.lines().last().unwrap_or_default();
                return Ok(Completion::ignored_with(reason));
            }
            _ => return Err(format!("{status}\n{text}").into()),
        }
        if !stuck.is_empty() {
            return Err(format!("cgroups that cannot be removed: {stuck:?}").into());
        }
        removed.map_err(|e| format!("cannot remove {}: {e}", dir.display()))?;
        if super::full() && !text.is_empty() {
            print!("{}: {text}", test.name);
        }
        Ok(Completion::Completed)
    }

    /// Why a test is not run for an ordinary user.
    fn refused(&self, test: &Test) -> Option<String> {
        if let Some(reason) = test.root {
            return Some(format!("needs root: {reason}"));
        }
        if !test.user && !test.name.starts_with("build::") {
            return Some("only tests of builds have users".to_owned());
        }
        let programs = ["newuidmap", "newgidmap", "setpriv"];
        programs
            .into_iter()
            .find_map(|name| self.lacks(Need::Program(name)))
    }

    /// The directory of a build may be closed to others.
    fn open(&self) -> &Path {
        self.open.get_or_init(|| {
            let copy = self.dir.join("rcrun");
            fs::copy(&self.runtime, &copy).expect("the suite's directory has room");
            copy
        })
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::V1(controller) => cgroup::v1(controller)
                .is_none()
                .then(|| format!("no cgroup v1 controller {controller} here")),
            Need::AppArmor => (!app_armor()).then(|| "no AppArmor in this kernel".to_owned()),
            Need::Systemd => {
                let there = ["/run/systemd/system", "/sys/fs/cgroup/cgroup.controllers"];
                let lacks = !there.iter().all(|path| Path::new(path).exists());
                lacks.then(|| "no systemd with cgroup v2 alone here".to_owned())
            }
            Need::SeLinux => (!Path::new("/sys/fs/selinux/policy").exists())
                .then(|| "no SELinux in this kernel".to_owned()),
            Need::Program(name) => process::which(Path::new(name))
                .is_none()
                .then(|| format!("{name} is not installed")),
            Need::Feature(path) => (!self.has_feature(path))
                .then(|| format!("the runtime does not list {path} among its features")),
        }
    }

    fn has_feature(&self, path: &str) -> bool {
        let Ok(output) = Command::new(&self.runtime).arg("features").output() else {
            return false;
        };
        let Ok(features) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return false;
        };
        let pointer = format!("/{}", path.replace('.', "/"));
        match features.pointer(&pointer) {
            Some(serde_json::Value::Bool(value)) => *value,
            Some(serde_json::Value::Null) | None => false,
            Some(_) => true,
        }
    }

    fn remove(&self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {e}", self.dir.display());
        }
        cgroup::remove_default_parent();
    }
}

/// The directory of a run that was interrupted: its runner is gone, and so is its mount namespace.
fn remove_stale(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix("rcrun-tests-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The root file system that every bundle hard-links: busybox, its names, this binary as the probe, an `/etc`.
fn make_base(base: &Path) -> std::io::Result<()> {
    for dir in [
        "bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "var/tmp",
    ] {
        fs::create_dir_all(base.join(dir))?;
    }
    let busybox = process::which(Path::new("busybox")).ok_or_else(|| {
        std::io::Error::other("busybox is missing: apt-get install busybox-static")
    })?;
    for (from, to) in [
        (busybox, "bin/busybox"),
        (std::env::current_exe()?, "bin/probe"),
    ] {
        fs::copy(from, base.join(to))?;
        fs::set_permissions(base.join(to), fs::Permissions::from_mode(0o755))?;
    }
    for applet in APPLETS {
        symlink("busybox", base.join("bin").join(applet))?;
    }
    fs::write(
        base.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n1:x:0:0:trap:/root:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    )?;
    fs::write(
        base.join("etc/group"),
        "root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:\n",
    )?;
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777))
}
