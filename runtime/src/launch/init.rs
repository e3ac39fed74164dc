//! The container's init, from `clone3` to `execve`: the steps, in the order in which they happen.
//!
//! Order matters. Cgroups first, so that everything counts; the cgroup namespace after that, since
//! it begins at the current cgroup. Terminal and protected paths after the root was switched, since
//! from then on no path of the host can be reached. Identity before the start is awaited, so that a
//! user that cannot be had is an error of `create`; the seccomp filter after it, so that it need not
//! allow what setting up takes (a filter with a listener is loaded just before, since the listener's
//! owner expects it from `create`, and need not answer for any of what setting up takes).

mod namespaces;
mod program;
mod rootfs;

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use super::child::{Progress, Setup};
use super::hooks::Streams;
use super::steps::Step;
use super::wire::Wire;
use super::{conditions, entry};
use crate::plan::Plan;
use crate::rootfs::mask::Covers;
use crate::rootfs::{Fail, Root, cgroup as cgroup_mounts};

/// What only an init needs.
#[derive(Debug)]
pub(crate) struct InitSetup<'a> {
    /// The part shared with `exec`.
    pub common: Setup<'a>,
    /// Existing namespaces to enter, opened.
    pub joins: &'a [(u64, OwnedFd)],
    /// The parent has maps to write before anything can be done.
    pub wait_for_maps: bool,
    /// The parent can do its part for an init that is undumpable from the first moment.
    pub hide_at_once: bool,
    /// The root file system, if it came as a mount.
    pub root: Option<BorrowedFd<'a>>,
    /// The mount that holds the root, to be made private.
    pub private_parent: Option<&'a CStr>,
    /// Mounts of proc and sysfs that a moved root would leave reachable.
    pub kernel_views: &'a [CString],
    /// Mounts of type cgroup.
    pub cgroup: &'a cgroup_mounts::View,
    /// The parent has hooks to run once the mounts are there.
    pub sync_mounted: bool,
    /// Streams of hooks.
    pub hooks: Option<Streams<'a>>,
    /// Where `start` connects; none when the parent itself starts the program.
    pub listener: Option<&'a OwnedFd>,
    /// Whoever makes the container may not trace an undumpable init ([`entry`]).
    pub untraceable: bool,
    /// Device nodes are bound, not made.
    pub bind_devices: bool,
}

/// The init on its way.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    plan: &'a mut Plan,
    setup: InitSetup<'a>,
    progress: Progress,
    root: Option<Root>,
    covers: Covers,
    held: entry::Held,
    /// Which candidate is the program.
    program: usize,
    /// Holds the message's text when the program cannot be executed.
    missing: [u8; 256],
}

type Action = fn(&mut Init<'_>) -> Result<(), Fail>;

const STEPS: &[(Step, Action)] = &[
    (Step::JoinCgroup, |init| init.join_cgroups()),
    (Step::JoinNamespaces, |init| init.join_namespaces()),
    (Step::BecomeRoot, |init| init.become_root()),
    (Step::Session, |_| conditions::session()),
    (Step::CgroupNamespace, |init| init.cgroup_namespace()),
    (Step::TimeNamespace, |init| init.time_namespace()),
    (Step::JoinNamespaces, |init| init.hold_namespaces()),
    (Step::Keyring, |init| {
        let label = init.plan.process.selinux.as_deref();
        init.setup.common.join_keyring(label)
    }),
    (Step::Loopback, |init| init.loopback()),
    (Step::HostName, |init| init.host_name()),
    (Step::Root, |init| init.prepare_root()),
    (Step::Mounts, |init| init.mounts()),
    (Step::Devices, |init| init.devices()),
    (Step::WorkingDirectory, |init| init.make_working_directory()),
    (Step::Wait, |init| init.sync_mounted()),
    (Step::CreateContainerHooks, |init| {
        init.create_container_hooks()
    }),
    (Step::Pivot, |init| init.switch_root()),
    (Step::Console, |init| init.console()),
    (Step::Sysctl, |init| init.sysctls()),
    (Step::Protect, |init| init.protect()),
    (Step::Personality, |init| {
        conditions::personality(&init.plan.process, &mut init.progress)
    }),
    (Step::Scheduling, |init| {
        conditions::scheduling(&init.plan.process)
    }),
    (Step::Labels, |init| {
        conditions::labels(&init.setup.common, &init.plan.process)
    }),
    (Step::NoNewPrivileges, |init| {
        conditions::no_new_privileges(&init.plan.process)
    }),
    (Step::ChangeDirectory, |init| {
        conditions::change_directory(&init.plan.process, false)
    }),
    (Step::Limits, |init| {
        conditions::raise_limits(&init.plan.process, &init.progress.wire)
    }),
    (Step::Identity, |init| {
        conditions::identity(&init.setup.common, &init.plan.process)
    }),
    (Step::ChangeDirectory, |init| {
        conditions::change_directory(&init.plan.process, true)
    }),
    (Step::FindProgram, |init| init.find_program()),
    (Step::Seccomp, |init| init.seccomp_with_listener()),
    (Step::Wait, |init| init.await_start()),
    (Step::Split, |init| init.split()),
    (Step::Limits, |init| {
        conditions::lower_limits(&init.plan.process)
    }),
    (Step::Seccomp, |init| init.seccomp()),
    (Step::StartContainerHooks, |init| {
        init.start_container_hooks()
    }),
    (Step::Exec, |init| init.execute()),
];

/// Carries out `plan` and becomes the program.
pub(crate) fn run(plan: &mut Plan, setup: InitSetup<'_>, wire: Wire) -> ! {
    crate::sys::alloc_guard::forbid();
    let progress = Progress { wire, index: 0 };
    let mut init = Init {
        plan,
        setup,
        progress,
        root: None,
        covers: Covers::default(),
        held: entry::Held::default(),
        program: 0,
        missing: [0; 256],
    };
    for (step, action) in STEPS {
        init.progress.index = 0;
        if let Err(fail) = action(&mut init) {
            init.progress.fail(*step, fail, &init.missing);
        }
    }
    crate::sys::process::exit_now(1)
}
