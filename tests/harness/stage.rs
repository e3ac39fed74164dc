//! The processes of one test. `isolate` enters fresh mount, network, pid, uts and ipc namespaces; `init` is
//! pid 1 there and reaps whatever containers leave to it, as the machine's init would; `test` runs the body.
//!
//! When pid 1 leaves, the kernel kills everything of the test; what was still alive before that is a leak. Tests
//! that talk to systemd about processes (`Need::Systemd`) have the machine's pids, and a subreaper instead.

use super::{Env, Test, leaks, users};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

pub(crate) const STAGE: &str = "RCRUN_TEST_STAGE";
pub(crate) const TEST: &str = "RCRUN_TEST_NAME";
pub(crate) const DIR: &str = "RCRUN_TEST_DIR";
pub(crate) const RUNTIME: &str = "RCRUN_TEST_RUNTIME";
/// Not empty: without a pid namespace.
pub(crate) const HOST_PIDS: &str = "RCRUN_TEST_HOST_PIDS";
pub(crate) const ISOLATE: &str = "isolate";
const INIT: &str = "init";
const BODY: &str = "test";
/// Exit code of a test that found out while running that it cannot; its last line of output says why.
pub(crate) const SKIPPED: i32 = 77;

/// The payload of `Env::skip`.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

/// Plays the part named by the environment, if any.
pub(crate) fn main(tests: fn() -> Vec<Test>) -> Option<ExitCode> {
    let stage = std::env::var(STAGE).ok()?;
    Some(match stage.as_str() {
        ISOLATE => isolate(),
        INIT => init(),
        _ => {
            let name = std::env::var(TEST).unwrap();
            let test = tests().into_iter().find(|t| t.name == name).unwrap();
            body(&test)
        }
    })
}

fn isolate() -> ExitCode {
    use CloneFlags as F;
    // A session of its own: a signal to the process group, by whatever mistake, ends at this test.
    nix::unistd::setsid().unwrap();
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    default_signals();
    let mut own = F::CLONE_NEWNS | F::CLONE_NEWNET | F::CLONE_NEWUTS | F::CLONE_NEWIPC;
    own.set(F::CLONE_NEWPID, !host_pids());
    unshare(own).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    spawn(INIT)
}

fn host_pids() -> bool {
    std::env::var_os(HOST_PIDS).is_some_and(|value| !value.is_empty())
}

/// Whether a process is one of the test's: all that there are, where it has a pid namespace, and else those below
/// the subreaper, which is the parent of this one.
pub(crate) fn is_of_the_test(pid: i32) -> bool {
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let reaper = parent(nix::unistd::getpid().as_raw());
    !host_pids()
        || std::iter::successors(parent(pid), |pid| parent(*pid)).any(|pid| Some(pid) == reaper)
}

/// What the caller of the tests ignores (`nohup`, a job in the background) would be ignored by the
/// programs in the containers too, and a shell cannot trap what it was started to ignore.
#[allow(unsafe_code, reason = "nix calls every change of a disposition unsafe")]
fn default_signals() {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }.unwrap();
    }
}

fn init() -> ExitCode {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    if host_pids() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        return spawn(BODY);
    }
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).unwrap();
    spawn(BODY)
}

/// Starts the next stage and reaps every child until it ends, whatever else was handed to this process.
#[allow(
    clippy::zombie_processes,
    reason = "wait() below reaps it with all others"
)]
fn spawn(stage: &str) -> ExitCode {
    let child = Command::new(std::env::current_exe().unwrap())
        .env(STAGE, stage)
        .spawn()
        .unwrap();
    let wanted = i32::try_from(child.id()).unwrap();
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == wanted => {
                return ExitCode::from(u8::try_from(code).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == wanted => {
                eprintln!("{stage} killed by {signal}");
                return ExitCode::FAILURE;
            }
            Ok(_) => {}
            Err(errno) => {
                eprintln!("cannot wait: {errno}");
                return ExitCode::FAILURE;
            }
        }
    }
}

/// Where a panic happened: the hook knows, the payload does not.
static PLACE: Mutex<String> = Mutex::new(String::new());

fn body(test: &Test) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        if let (Some(at), Ok(mut place)) = (info.location(), PLACE.lock()) {
            *place = at.to_string();
        }
    }));
    let env = Env::new();
    if env.user.is_some() {
        // As long as this mount namespace.
        std::mem::forget(users::both(&env));
    }
    let before = leaks::Snapshot::take(&env);
    let outcome = catch_unwind(AssertUnwindSafe(|| (test.body)(&env)));
    if let Err(payload) = outcome {
        if let Some(Skip(reason)) = payload.downcast_ref::<Skip>() {
            println!("{reason}");
            return ExitCode::from(SKIPPED as u8);
        }
        env.print_transcript();
        let place = PLACE.lock().map(|p| p.clone()).unwrap_or_default();
        println!("---- failed at {place}\n{}", message(&*payload));
        return ExitCode::FAILURE;
    }
    let leaked = before.leaked(&env);
    if leaked.is_empty() {
        return ExitCode::SUCCESS;
    }
    env.print_transcript();
    println!(
        "{} passed, but left behind:\n{}",
        test.name,
        leaked.join("\n")
    );
    ExitCode::FAILURE
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panic without text")
}
