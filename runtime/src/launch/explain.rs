//! What a child's numbers mean: `(step, detail, errno, index)` and the plan -> one clear error.

use crate::error::{Error, ErrorKind, kind_of, words};
use crate::plan::{MountKind, Plan, Process};
use crate::rootfs::Detail;

use super::hooks::SIGNALLED;
use super::steps::Step;
use super::wire::Message;

/// What the child was made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The container's plan; none for `exec`.
    pub plan: Option<&'a Plan>,
    /// The program.
    pub process: &'a Process,
    /// What hooks printed: standard output and standard error.
    pub hook_output: Option<(&'a str, &'a str)>,
}

/// Words a failure.
pub(crate) fn explain(message: &Message, subject: &Subject<'_>) -> Error {
    let error = describe(message, subject);
    let error = if message.step == Step::Exec {
        error.told()
    } else {
        error
    };
    let error = error.context("error during container init");
    error.context("unable to start container process")
}

fn describe(message: &Message, subject: &Subject<'_>) -> Error {
    let errno = rustix::io::Errno::from_raw_os_error(message.errno);
    if message.detail == Detail::HookStatus {
        return hook(message, subject);
    }
    if matches!(message.step, Step::FindProgram | Step::Exec) {
        return program(message, subject);
    }
    let reason = Error::from(errno);
    let reason = match note(message) {
        Some(note) => reason.context(note),
        None => reason,
    };
    reason.context(what(message, subject))
}

fn note(message: &Message) -> Option<&'static str> {
    Some(match message.detail {
        Detail::Source => "cannot open its source",
        Detail::Target => "cannot find or make its place in the container",
        Detail::TargetIsLink => {
            "filesystem must be mounted on ordinary directory: its path has a symbolic link"
        }
        Detail::TargetNotDirectory => "its place in the container is not a directory",
        Detail::InsideProc => "it cannot be mounted because it is inside /proc",
        Detail::Attributes => "cannot set its attributes",
        Detail::Propagation => "cannot set its propagation",
        Detail::Attach => "cannot attach it",
        Detail::Copy => "cannot copy what it covers",
        Detail::Node => "cannot make the node",
        Detail::Owner => "cannot set owner or mode",
        Detail::Mismatch => "what is there is something else",
        Detail::Outside => "current working directory is outside of container mount namespace root",
        Detail::Open => "cannot open it",
        Detail::Write => "cannot write it",
        _ => return None,
    })
}

#[expect(clippy::too_many_lines, reason = "one table: what each step does")]
fn what(message: &Message, subject: &Subject<'_>) -> String {
    let index = message.index as usize;
    let plan = subject.plan;
    match message.step {
        Step::Wait => "cannot talk to the parent process".to_owned(),
        Step::JoinCgroup => "cannot join the container's cgroup".to_owned(),
        Step::JoinNamespaces => {
            let join = plan.and_then(|p| p.namespaces.joins.get(index));
            match join {
                Some(j) => format!(
                    "cannot join {} namespace {}",
                    j.name,
                    j.path.to_string_lossy()
                ),
                None => "cannot join the container's namespaces".to_owned(),
            }
        }
        Step::Clone => "cannot create the container's init".to_owned(),
        Step::BecomeRoot => "cannot become root of the user namespace".to_owned(),
        Step::Session => "cannot create a session".to_owned(),
        Step::CgroupNamespace => "cannot create the cgroup namespace".to_owned(),
        Step::TimeNamespace => "cannot create the time namespace".to_owned(),
        Step::Keyring => match (message.detail, &subject.process.selinux) {
            (Detail::Open | Detail::Write, Some(label)) => format!(
                "cannot apply SELinux label {} to the session keyring",
                label.to_string_lossy()
            ),
            _ => "unable to join session keyring".to_owned(),
        },
        Step::Loopback => "cannot bring the loopback interface up".to_owned(),
        Step::HostName if index == 0 => "cannot set hostname".to_owned(),
        Step::HostName => "cannot set domainname".to_owned(),
        Step::Root | Step::Pivot => {
            let path = plan.map(|p| p.rootfs.path.to_string_lossy().into_owned());
            let verb = if message.step == Step::Root {
                "prepare"
            } else {
                "switch to"
            };
            format!(
                "cannot {verb} root file system {}",
                path.unwrap_or_default()
            )
        }
        Step::Mounts => mount(plan, index),
        Step::Devices => match plan.and_then(|p| p.devices.get(index)) {
            Some(device) => format!("cannot make device {}", device.path.to_string_lossy()),
            None => "cannot make the links of /dev".to_owned(),
        },
        Step::WorkingDirectory => {
            format!("mkdir {}", subject.process.cwd.to_string_lossy())
        }
        Step::CreateContainerHooks => format!("error running createContainer hook #{index}"),
        Step::StartContainerHooks => format!("error running startContainer hook #{index}"),
        Step::Console => "cannot set up the terminal".to_owned(),
        Step::Sysctl => match plan.and_then(|p| p.sysctls.get(index)) {
            Some((path, value)) => format!(
                "cannot set sysctl {} to {:?}",
                path.to_string_lossy(),
                String::from_utf8_lossy(value)
            ),
            None => "cannot set a sysctl".to_owned(),
        },
        Step::Protect => protect(plan, index),
        Step::ChangeDirectory => {
            format!(
                "chdir to cwd ({:?}) set in config.json failed",
                subject.process.cwd.to_string_lossy()
            )
        }
        Step::Personality if index == 0 => "cannot set personality".to_owned(),
        Step::Personality => "cannot set memory policy".to_owned(),
        Step::Scheduling => match message.detail {
            Detail::Write => "cannot set ioPriority".to_owned(),
            Detail::Attributes => "cannot set CPU affinity".to_owned(),
            _ if message.errno == libc::EPERM => {
                "cannot set scheduler (process scheduler can't be used together with AllowedCPUs)"
                    .to_owned()
            }
            _ => "cannot set scheduler".to_owned(),
        },
        Step::Labels => match (&subject.process.apparmor, &subject.process.selinux) {
            (Some(profile), _) => {
                let missing = match message.errno {
                    libc::ENOENT => " (is it loaded?)",
                    _ => "",
                };
                let profile = profile.to_string_lossy();
                format!("unable to apply apparmor profile {profile}{missing}")
            }
            (None, Some(label)) => {
                format!("cannot apply SELinux label {}", label.to_string_lossy())
            }
            _ => "cannot apply labels".to_owned(),
        },
        Step::NoNewPrivileges => "cannot set no_new_privs".to_owned(),
        Step::Limits => match subject.process.rlimits.get(index) {
            Some((resource, soft, hard)) => {
                format!("error setting rlimit type {resource} to {soft}:{hard}")
            }
            None => "cannot set resource limits".to_owned(),
        },
        Step::Identity => {
            format!(
                "cannot become user {}:{}",
                subject.process.uid, subject.process.gid
            )
        }
        Step::Capabilities => "unable to apply caps".to_owned(),
        Step::Split => "cannot split the program off the init".to_owned(),
        Step::Seccomp => "cannot load the seccomp filter".to_owned(),
        Step::FindProgram | Step::Exec => String::new(),
    }
}

fn mount(plan: Option<&Plan>, index: usize) -> String {
    let Some(step) = plan.and_then(|p| p.mounts.iter().find(|m| m.index == index)) else {
        return "cannot mount".to_owned();
    };
    let source = match &step.kind {
        MountKind::Bind(bind) => format!("{:?}", bind.source.to_string_lossy()),
        MountKind::Filesystem(fs) | MountKind::Remount(fs) => fs.fstype.to_string_lossy().into(),
        MountKind::Cgroup => "cgroup".to_owned(),
    };
    let verb = if matches!(step.kind, MountKind::Remount(_)) {
        "remounting"
    } else {
        "mounting"
    };
    format!(
        "error {verb} {source} to rootfs at {:?}",
        step.target.to_string_lossy()
    )
}

fn protect(plan: Option<&Plan>, index: usize) -> String {
    let Some(plan) = plan else {
        return "cannot protect the root".to_owned();
    };
    let readonly = plan.readonly.len();
    match index {
        0 => "cannot set flags of the root file system".to_owned(),
        n if n <= readonly => format!(
            "can't make {} read-only",
            plan.readonly[n - 1].to_string_lossy()
        ),
        n => match plan.masked.get(n - 1 - readonly) {
            Some(path) => format!("can't mask path {}", path.to_string_lossy()),
            None => "can't mask a path".to_owned(),
        },
    }
}

fn program(message: &Message, subject: &Subject<'_>) -> Error {
    let errno = rustix::io::Errno::from_raw_os_error(message.errno);
    let program = subject.process.program.as_ref();
    let name = program.map_or_else(Default::default, |program| program.name.to_string_lossy());
    let missing = String::from_utf8_lossy(message.text());
    let kind = kind_of(errno);
    if message.step == Step::FindProgram {
        let why = match message.detail {
            Detail::NotInPath if errno == rustix::io::Errno::NOENT => {
                "executable file not found in $PATH".to_owned()
            }
            Detail::IsDirectory => "is a directory".to_owned(),
            _ if name.contains('/') && errno == rustix::io::Errno::NOENT => {
                format!("stat {name}: {}", words(errno))
            }
            _ => words(errno),
        };
        return Error::new(kind, why).context(format!("exec: {name:?}"));
    }
    let why = match message.detail {
        Detail::Interpreter => {
            format!(
                "{}: the interpreter {missing:?} that its first line names",
                words(errno)
            )
        }
        Detail::Loader => format!(
            "{}: the program is there, but its loader {missing:?} is not (built for another C \
             library?)",
            words(errno)
        ),
        Detail::Architecture => {
            let native = std::env::consts::ARCH;
            format!("exec format error: built for another architecture than {native}")
        }
        _ => words(errno),
    };
    Error::new(kind, format!("exec {name}: {why}"))
}

fn hook(message: &Message, subject: &Subject<'_>) -> Error {
    let kind = match message.step {
        Step::StartContainerHooks => "startContainer",
        _ => "createContainer",
    };
    hook_error(
        kind,
        message.index as usize,
        message.errno,
        subject.hook_output,
    )
}

/// The error of a hook that did not end well (the text of runc, which engines show).
pub(crate) fn hook_error(
    kind: &str,
    index: usize,
    status: i32,
    output: Option<(&str, &str)>,
) -> Error {
    let (stdout, stderr) = output.unwrap_or_default();
    let (error_kind, status) = match status {
        n if n >= 2 * SIGNALLED => (ErrorKind::Deadline, "timed out and was killed".to_owned()),
        n if n >= SIGNALLED => (
            ErrorKind::FailedPrecondition,
            format!("signal: {}", crate::state::signal_words(n - SIGNALLED)),
        ),
        n => (ErrorKind::FailedPrecondition, format!("exit status {n}")),
    };
    Error::new(
        error_kind,
        format!("error running {kind} hook #{index}: {status}, stdout: {stdout}, stderr: {stderr}"),
    )
}
