//! The container's init, from `clone3` to `execve`: the steps, in the order in which they happen.
//!
//! Order matters. Cgroups first, so that everything counts; the cgroup namespace after that, since
//! it begins at the current cgroup. Terminal and protected paths after the root was switched, since
//! from then on no path of the host can be reached. Identity before the start is awaited, so that a
//! user that cannot be had is an error of `create`; the seccomp filter after it, so that it need not
//! allow what setting up takes (a filter with a listener is loaded just before, since the listener's
//! owner expects it from `create`, and need not answer for any of what setting up takes).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::child::{Progress, Setup};
use super::hooks::{self, Streams};
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use super::{entry, identity, program};
use crate::plan::devices::{CORE, LINKS, PTMX};
use crate::plan::{MountKind, Plan};
use crate::rootfs::mask::{self, Covers};
use crate::rootfs::mount::{self, Sources};
use crate::rootfs::resolve::{Links, Want};
use crate::rootfs::{Detail, During as _, Fail, Root, Text, cgroup as cgroup_mounts};
use crate::rootfs::{console, device, pivot};

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
    (Step::Session, |init| init.session()),
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
        super::exec::personality(&init.plan.process, &mut init.progress)
    }),
    (Step::Scheduling, |init| {
        super::exec::scheduling(&init.plan.process)
    }),
    (Step::Labels, |init| {
        super::exec::labels(&init.setup.common, &init.plan.process)
    }),
    (Step::NoNewPrivileges, |init| {
        super::exec::no_new_privileges(&init.plan.process)
    }),
    (Step::ChangeDirectory, |init| {
        super::exec::change_directory(&init.plan.process, false)
    }),
    (Step::Limits, |init| {
        super::exec::raise_limits(&init.plan.process, &init.progress.wire)
    }),
    (Step::Identity, |init| init.identity()),
    (Step::ChangeDirectory, |init| {
        super::exec::change_directory(&init.plan.process, true)
    }),
    (Step::FindProgram, |init| init.find_program()),
    (Step::Seccomp, |init| init.seccomp_with_listener()),
    (Step::Wait, |init| init.await_start()),
    (Step::Limits, |init| {
        super::exec::lower_limits(&init.plan.process)
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

/// Asks the parent for mount sources.
struct FromParent<'a>(&'a Wire);

impl Sources for FromParent<'_> {
    fn fetch(&mut self, index: usize) -> Result<OwnedFd, Fail> {
        self.ask(Tag::Source, index)
    }

    fn fetch_node(&mut self, index: usize) -> Result<OwnedFd, Fail> {
        self.ask(Tag::Node, index)
    }
}

impl FromParent<'_> {
    fn ask(&self, what: Tag, index: usize) -> Result<OwnedFd, Fail> {
        let mut message = Message::new(what);
        message.index = u32::try_from(index).unwrap_or(u32::MAX);
        self.0.send(&message).during(Detail::Source)?;
        match self.0.receive().during(Detail::Source)? {
            Some((_, Some(tree))) => Ok(tree),
            Some((answer, None)) => Err(Fail {
                errno: Errno::from_raw_os_error(answer.errno),
                detail: answer.detail,
            }),
            None => Err(Fail {
                errno: Errno::PIPE,
                detail: Detail::Source,
            }),
        }
    }
}

impl Init<'_> {
    fn root(&self) -> Result<&Root, Fail> {
        self.root.as_ref().ok_or(Fail {
            errno: Errno::NOENT,
            detail: Detail::Open,
        })
    }

    fn own_mounts(&self) -> bool {
        self.plan.namespaces.has(LinuxNamespaceType::Mount)
    }

    fn join_cgroups(&mut self) -> Result<(), Fail> {
        if self.setup.hide_at_once {
            self.setup.common.hide()?;
        }
        self.setup.common.join_cgroups()?;
        Setup::reset_affinity();
        Ok(())
    }

    fn join_namespaces(&mut self) -> Result<(), Fail> {
        for (index, (flag, fd)) in self.setup.joins.iter().enumerate() {
            self.progress.index = index as u32;
            nix::sched::setns(fd, CloneFlags::from_bits_retain(*flag as libc::c_int))?;
        }
        Ok(())
    }

    fn become_root(&mut self) -> Result<(), Fail> {
        if self.setup.wait_for_maps {
            self.progress.wire.wait_go()?;
        }
        if self.plan.namespaces.has_user() {
            identity::become_root(self.plan.process.groups.is_none())?;
        }
        self.setup.common.hide()
    }

    fn session(&mut self) -> Result<(), Fail> {
        match rustix::process::setsid() {
            // Already the leader of a session: the first process of a pid namespace never is.
            Ok(_) | Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn cgroup_namespace(&mut self) -> Result<(), Fail> {
        if self.plan.namespaces.new_cgroup {
            nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?;
        }
        Ok(())
    }

    fn time_namespace(&mut self) -> Result<(), Fail> {
        let Some(offsets) = &self.plan.namespaces.new_time else {
            return Ok(());
        };
        nix::sched::unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        if !offsets.is_empty() {
            let write =
                |setup: &Setup<'_>| setup.write_proc(c"self/timens_offsets", offsets.to_bytes());
            match write(&self.setup.common) {
                // A parent without rights could not either. In a new user namespace nobody is yet
                // who could use the moment.
                Err(Fail {
                    errno: Errno::ACCESS,
                    ..
                }) if self.plan.namespaces.maps.is_some() => {
                    self.setup.common.show()?;
                    let written = write(&self.setup.common);
                    self.setup.common.hide()?;
                    written?;
                }
                // Files of a process that nobody may trace belong to the host's root.
                Err(Fail {
                    errno: Errno::ACCESS,
                    ..
                }) => {
                    self.progress.wire.send(&Message::new(Tag::TimeOffsets))?;
                    self.progress.wire.wait_go()?;
                }
                answer => answer?,
            }
        }
        // unshare only concerns children; entering it concerns this process.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let name = c"self/ns/time_for_children";
        let own = rustix::fs::openat(self.setup.common.proc, name, flags, Mode::empty());
        let own = own.during(Detail::Open)?;
        nix::sched::setns(own, CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        Ok(())
    }

    /// All namespaces are as they will be, and the host's /proc is still there.
    fn hold_namespaces(&mut self) -> Result<(), Fail> {
        if self.setup.untraceable && self.setup.listener.is_some() {
            let all = self.plan.namespaces.all;
            self.held = entry::Held::open(self.setup.common.proc, all);
        }
        Ok(())
    }

    fn loopback(&mut self) -> Result<(), Fail> {
        if self.plan.loopback {
            Ok(crate::sys::netlink::lo_up()?)
        } else {
            Ok(())
        }
    }

    fn host_name(&mut self) -> Result<(), Fail> {
        if let Some(name) = &self.plan.hostname {
            rustix::system::sethostname(name.to_bytes())?;
        }
        self.progress.index = 1;
        if let Some(name) = &self.plan.domainname {
            rustix::system::setdomainname(name.to_bytes())?;
        }
        Ok(())
    }

    fn prepare_root(&mut self) -> Result<(), Fail> {
        let own = self.own_mounts();
        let root = pivot::prepare(&self.plan.rootfs, own, self.setup.private_parent)?;
        self.root = Some(root);
        if own && !(self.plan.masked.is_empty() && self.plan.readonly.is_empty()) {
            self.covers = Covers::prepare()?;
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let mut sources = FromParent(&self.progress.wire);
        for step in &self.plan.mounts {
            let index = step.index as u32;
            let result = match &step.kind {
                MountKind::Bind(bind) => mount::bind(root, step, bind, &mut sources),
                MountKind::Filesystem(fs) => mount::filesystem(root, step, fs),
                MountKind::Cgroup => cgroup_mounts::mount(root, step, self.setup.cgroup),
                MountKind::Remount(fs) => mount::remount(root, step, fs),
            };
            if let Err(fail) = result {
                self.progress.index = index;
                return Err(fail);
            }
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        // Modes are given exactly.
        rustix::process::umask(Mode::empty());
        let mut maker = device::Maker::default();
        let mut sources = FromParent(&self.progress.wire);
        let mut bind: Option<&mut dyn Sources> = self.setup.bind_devices.then_some(&mut sources);
        for (index, node) in self.plan.devices.iter().enumerate() {
            self.progress.index = index as u32;
            maker.make(root, node, index, bind.as_deref_mut())?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        self.progress.index = u32::MAX;
        if self.plan.populate_dev {
            device::ptmx(root, &PTMX)?;
            for link in &LINKS {
                device::link(root, link)?;
            }
            if rustix::fs::statat(
                self.setup.common.proc,
                c"kcore",
                rustix::fs::AtFlags::empty(),
            )
            .is_ok()
            {
                device::link(root, &CORE)?;
            }
        }
        Ok(())
    }

    fn make_working_directory(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let cwd = &self.plan.process.cwd;
        if cwd.as_c_str() == c"/" {
            return Ok(());
        }
        match root.ensure(cwd, Want::Directory, Links::Follow) {
            // Reported, with the right words, when it is entered.
            Ok(_) | Err(Errno::NOTDIR | Errno::ACCESS | Errno::ROFS | Errno::PERM) => Ok(()),
            Err(errno) => Err(Fail {
                errno,
                detail: Detail::Target,
            }),
        }
    }

    fn sync_mounted(&mut self) -> Result<(), Fail> {
        if self.setup.sync_mounted {
            self.progress.wire.send(&Message::new(Tag::Mounted))?;
            self.progress.wire.wait_go()?;
        }
        Ok(())
    }

    fn create_container_hooks(&mut self) -> Result<(), Fail> {
        let Some(streams) = self.setup.hooks else {
            return Ok(());
        };
        if self.plan.create_container.is_empty() {
            return Ok(());
        }
        rustix::process::fchdir(self.root()?).during(Detail::Open)?;
        for (index, hook) in self.plan.create_container.iter().enumerate() {
            self.progress.index = index as u32;
            streams.clear()?;
            hooks::run(self.setup.common.proof, hook, streams, None, &|| Ok(()))?;
        }
        Ok(())
    }

    fn switch_root(&mut self) -> Result<(), Fail> {
        if self.own_mounts() && self.covers.is_early() {
            self.hide_paths()?;
            self.progress.index = 0;
        }
        let root = self.root()?;
        if !self.own_mounts() {
            return pivot::change_root(root);
        }
        if self.plan.rootfs.no_pivot {
            pivot::move_root(root, self.setup.kernel_views)
        } else {
            pivot::pivot(root)
        }
    }

    fn console(&mut self) -> Result<(), Fail> {
        let process = &self.plan.process;
        let root = self.root()?;
        super::exec::open_terminal(&self.setup.common, process, root, true)
    }

    fn sysctls(&mut self) -> Result<(), Fail> {
        for (index, (path, value)) in self.plan.sysctls.iter().enumerate() {
            self.progress.index = index as u32;
            let mut full = Text::<512>::new();
            full.push(b"sys/")?.push(path.to_bytes())?;
            self.setup.common.write_proc(full.as_c_str(), value)?;
        }
        Ok(())
    }

    /// Read-only and masked paths.
    fn hide_paths(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        for (index, path) in self.plan.readonly.iter().enumerate() {
            self.progress.index = 1 + index as u32;
            mask::readonly(root, path)?;
        }
        let before = 1 + self.plan.readonly.len();
        for (index, path) in self.plan.masked.iter().enumerate() {
            self.progress.index = (before + index) as u32;
            self.covers
                .mask(root, path, self.plan.mount_label.as_deref())?;
        }
        Ok(())
    }

    fn protect(&mut self) -> Result<(), Fail> {
        if !self.own_mounts() {
            return Ok(());
        }
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        let late = self.plan.mounts.iter().any(|step| {
            let dev = step.target.as_c_str() == c"/dev";
            dev && matches!(&step.kind, MountKind::Filesystem(fs) if fs.late_readonly)
        });
        if late {
            let dev = root.find(c"/dev").during(Detail::Target)?;
            mount::make_readonly(dev.as_fd(), false).during(Detail::Attributes)?;
        }
        if self.plan.rootfs.readonly {
            mount::make_readonly(root.as_fd(), false).during(Detail::Attributes)?;
        }
        if !self.covers.is_early() {
            self.hide_paths()?;
        }
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        self.progress.index = 0;
        match self.plan.rootfs.final_propagation {
            Some(flags) => pivot::propagate(root, flags),
            None => Ok(()),
        }
    }

    fn identity(&mut self) -> Result<(), Fail> {
        let process = &self.plan.process;
        if !process.terminal {
            console::own_streams(process.uid)?;
        }
        identity::limit(&process.capabilities)?;
        identity::assume(process)?;
        identity::restrict(&process.capabilities, self.keeps_admin())
    }

    /// The filter is loaded after the capabilities were given up, and without this one it could not be.
    fn keeps_admin(&self) -> bool {
        self.setup.common.seccomp.is_some() && !self.plan.process.no_new_privs
    }

    fn late_filter(&self) -> bool {
        self.setup
            .common
            .seccomp
            .is_some_and(|filter| filter.notify.is_none())
    }

    fn find_program(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        program::set_home(&mut self.plan.process, root)?;
        // `/` stands for a process that the configuration leaves out; `start` refuses it.
        if self.plan.process.program.as_c_str() != c"/" {
            self.program = program::find(&self.plan.process)?;
        }
        Ok(())
    }

    fn await_start(&mut self) -> Result<(), Fail> {
        self.setup.common.close_descriptors()?;
        self.progress.wire.send(&Message::new(Tag::Ready))?;
        let Some(listener) = self.setup.listener else {
            return Ok(self.progress.wire.wait_go()?);
        };
        let mut keep = [-1; 13];
        keep[5..].copy_from_slice(&self.held.numbers());
        (keep[0], keep[1]) = (listener.as_raw_fd(), self.progress.wire.as_fd().as_raw_fd());
        if let Some(streams) = self
            .setup
            .hooks
            .filter(|_| !self.plan.start_container.is_empty())
        {
            keep[2] = streams.state.as_raw_fd();
            keep[3] = streams.output.as_raw_fd();
            keep[4] = streams.error.as_raw_fd();
        }
        self.setup.common.close_all_but(&mut keep)?;
        crate::sys::process::end_on_signals();
        loop {
            let accepted = rustix::io::retry_on_intr(|| {
                rustix::net::accept_with(listener, SocketFlags::CLOEXEC)
            })?;
            let caller = Wire::from_fd(accepted);
            match caller.receive() {
                Ok(Some((message, _))) if message.tag == Tag::Go => {
                    self.progress.wire = caller;
                    return Ok(());
                }
                Ok(Some((message, _))) if message.tag == Tag::Enter => self.held.send(&caller),
                // `state` only connects to see that somebody listens.
                _ => {}
            }
        }
    }

    fn start_container_hooks(&mut self) -> Result<(), Fail> {
        let Some(streams) = self.setup.hooks else {
            return Ok(());
        };
        for (index, hook) in self.plan.start_container.iter().enumerate() {
            self.progress.index = index as u32;
            let env = Some(&self.plan.process.env);
            streams.clear()?;
            hooks::run(self.setup.common.proof, hook, streams, env, &|| Ok(()))?;
        }
        Ok(())
    }

    fn seccomp_with_listener(&mut self) -> Result<(), Fail> {
        if self.late_filter() {
            return Ok(());
        }
        let Some(filter) = self.setup.common.seccomp else {
            return Ok(());
        };
        let namespaces = &self.plan.namespaces;
        let alone = namespaces.maps.is_some() && namespaces.is_new(LinuxNamespaceType::Pid);
        if !(self.setup.untraceable && alone) {
            return load_filter(filter, &self.progress.wire);
        }
        // The parent takes the listener by pidfd_getfd(2), which asks for the right to trace. Who is
        // alone in new user and pid namespaces can give that right for a moment; an `exec` that came
        // now would wait for an answer from this process.
        self.setup.common.show()?;
        load_filter(filter, &self.progress.wire)?;
        self.setup.common.hide()
    }

    fn seccomp(&mut self) -> Result<(), Fail> {
        // After the filter only what gives up privileges, and execve.
        crate::sys::process::restore_signals();
        let keeps_admin = self.keeps_admin();
        if self.late_filter()
            && let Some(filter) = self.setup.common.seccomp
        {
            load_filter(filter, &self.progress.wire)?;
        }
        identity::settle(&self.plan.process.capabilities, keeps_admin)
    }

    fn execute(&mut self) -> Result<(), Fail> {
        let fail = program::execute(self.program, &self.plan.process, &mut self.missing);
        program::complain(&self.plan.process, fail);
        Err(fail)
    }
}

/// Loads a filter; a listener stays open until the parent took it over.
pub(crate) fn load_filter(filter: &crate::seccomp::Filter, wire: &Wire) -> Result<(), Fail> {
    let listener = crate::sys::seccomp::load(&filter.program, filter.flags)?;
    let Some(listener) = listener else {
        return Ok(());
    };
    let mut message = Message::new(Tag::Listener);
    message.value = i64::from(listener.as_raw_fd());
    wire.send(&message)?;
    Ok(wire.wait_go()?)
}
