//! The clone of the container's init, and everything that is laid out for it before.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Launch;
use crate::cgroup::Prepared;
use crate::error::{Context, Error, Result};
use crate::launch::birth::{self, Birth, Side};
use crate::launch::child::Setup;
use crate::launch::init::{self, InitSetup};
use crate::launch::wire::Wire;
use crate::launch::{entry, parent};
use crate::operations::caller::listen_fds;
use crate::operations::hooks::Files;
use crate::plan::Namespaces;
use crate::rootfs::cgroup as cgroup_mounts;
use crate::sys::process::{CloneArgs, dup_onto, exit_now};

/// What is looked up before the clone, for the init to find it.
struct Belongings {
    joins: Vec<(u64, OwnedFd)>,
    private_parent: Option<CString>,
    kernel_views: Vec<CString>,
    cgroup: cgroup_mounts::View,
    keyring: Option<CString>,
    untraceable: bool,
    preserve_fds: u32,
}

impl Launch<'_> {
    /// The socket to which `start` connects. It lies in a directory that only root may enter, and its
    /// last descriptor is gone when the program runs: that nobody listens means `running`.
    pub(super) fn listen(&self) -> Result<OwnedFd> {
        let listen = || -> Result<OwnedFd, Errno> {
            let flags = SocketFlags::CLOEXEC;
            let kind = SocketType::SEQPACKET;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            let path = format!(
                "{}/start.sock",
                crate::rootfs::fd_path(self.directory.as_fd())
                    .as_c_str()
                    .to_string_lossy()
            );
            let before = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound = SocketAddrUnix::new(path.as_str())
                .and_then(|address| rustix::net::bind(&socket, &address));
            rustix::process::umask(before);
            bound?;
            rustix::net::listen(&socket, 16)?;
            Ok(socket)
        };
        listen().context(|| format!("cannot listen in {}", self.directory.path().display()))
    }

    fn open_joins(&self) -> Result<Vec<(u64, OwnedFd)>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |join: &crate::plan::namespaces::Join| {
            let fd =
                rustix::fs::open(join.path.as_c_str(), flags, Mode::empty()).context(|| {
                    format!(
                        "cannot open {} namespace {}",
                        join.name,
                        join.path.to_string_lossy()
                    )
                })?;
            Ok((join.flag, fd))
        };
        self.plan.namespaces.joins.iter().map(open).collect()
    }

    /// Everything of the init's that is not decided, but looked up.
    fn look_up(&self) -> Result<Belongings> {
        let shared = self.plan.rootfs.propagation & libc::MS_SHARED != 0;
        let own_mounts = self.plan.namespaces.is_new(LinuxNamespaceType::Mount);
        Ok(Belongings {
            joins: self.open_joins()?,
            private_parent: (shared && own_mounts)
                .then(|| parent::mount_holding(&self.record.rootfs))
                .transpose()?,
            kernel_views: match self.options.no_pivot {
                true => parent::kernel_views(&self.record.rootfs)?,
                false => Vec::new(),
            },
            cgroup: self.cgroup_view()?,
            keyring: birth::keyring(&self.record)?,
            untraceable: !entry::may_trace(),
            preserve_fds: self.options.preserve_fds + listen_fds().unwrap_or(0),
        })
    }

    /// Returns in the parent, with the init's pid.
    pub(super) fn clone_init(
        &mut self,
        prepared: &Prepared,
        wire: &Wire,
        theirs: Wire,
        console: Option<&OwnedFd>,
        listener: Option<&OwnedFd>,
    ) -> Result<i32> {
        let belongings = self.look_up()?;
        let namespaces = &self.plan.namespaces;
        let joins = belongings.joins.as_slice();
        let intermediate = namespaces.needs_intermediate();
        // An ordinary user has no right to the maps of an undumpable process.
        let hide_at_once = namespaces.maps.is_none() || rustix::process::geteuid().is_root();
        let birth = Birth {
            proof: self.proof,
            args: CloneArgs {
                flags: namespaces.clone_flags,
                cgroup: prepared.unified.as_ref().map(|fd| fd.as_fd()),
            },
            through: intermediate.then_some(joins),
            hide: hide_at_once,
        };
        let cloned = birth.clone(wire, theirs);
        let (theirs, outside) = match cloned.map_err(|errno| clone_error(errno, namespaces))? {
            Side::Child(theirs, outside) => (theirs, outside),
            Side::Parent(cloned) => {
                let child = birth.adopt(cloned, wire, |said| self.explain(said))?;
                self.outside = child.outside;
                self.child = Some(child.pidfd);
                return Ok(child.pid);
            }
        };
        let streams = self.attendant.and_then(|attendant| attendant.streams);
        for (number, stream) in (0..).zip(streams.iter().flatten()) {
            if dup_onto(stream.as_fd(), number).is_err() {
                // The wire closes: the parent hears of it.
                exit_now(1);
            }
        }
        let setup = InitSetup {
            common: Setup {
                proof: self.proof,
                proc: self.proc.as_fd(),
                tasks: &prepared.tasks,
                console: console.map(|fd| fd.as_fd()),
                // Who attends decides for itself what its own terminal does.
                raw_console: self.options.console_socket.is_none() && self.attendant.is_none(),
                preserve_fds: belongings.preserve_fds,
                keyring: belongings.keyring.as_deref(),
                seccomp: self.filter.as_ref(),
            },
            joins: if intermediate { &[] } else { joins },
            wait_for_maps: outside || self.must_wait(),
            hide_at_once,
            root: self.options.root.as_ref().map(|root| root.as_fd()),
            private_parent: belongings.private_parent.as_deref(),
            kernel_views: &belongings.kernel_views,
            cgroup: &belongings.cgroup,
            sync_mounted: self.hooks.is_some(),
            hooks: self.hooks.as_ref().map(Files::streams),
            listener,
            untraceable: belongings.untraceable,
            bind_devices: namespaces.has_user(),
        };
        init::run(&mut self.plan, setup, theirs)
    }
}

fn clone_error(errno: Errno, namespaces: &Namespaces) -> Error {
    let error = Error::from(errno).context("cannot create the container's init");
    match errno {
        Errno::INVAL if namespaces.has_user() => {
            error.context("does this kernel have user namespaces?")
        }
        Errno::NOSPC => error.context("too many namespaces: see /proc/sys/user/max_*_namespaces"),
        _ => error,
    }
}
