//! The init's steps towards the program: hooks, the wait for `start`, the filter, execve.

use std::os::fd::{AsFd as _, AsRawFd as _};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::Init;
use crate::launch::conditions;
use crate::launch::wire::{Message, Tag, Wire};
use crate::launch::{hooks, program, reaper};
use crate::rootfs::{Detail, During as _, Fail};

impl Init<'_> {
    fn late_filter(&self) -> bool {
        self.setup
            .common
            .seccomp
            .is_some_and(|filter| filter.notify.is_none())
    }

    pub(super) fn sync_mounted(&mut self) -> Result<(), Fail> {
        if self.setup.sync_mounted {
            self.progress.wire.send(&Message::new(Tag::Mounted))?;
            self.progress.wire.wait_go()?;
        }
        Ok(())
    }

    pub(super) fn create_container_hooks(&mut self) -> Result<(), Fail> {
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

    pub(super) fn find_program(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        program::set_home(&mut self.plan.process, root)?;
        if let Some(program) = &self.plan.process.program {
            self.program = program::find(program)?;
        }
        Ok(())
    }

    pub(super) fn await_start(&mut self) -> Result<(), Fail> {
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
        self.setup.common.close_all_but(&keep)?;
        crate::sys::process::end_on_signals();
        if self.plan.process.program.is_none() {
            // It is nothing but the first process of a pid namespace, into which others come.
            crate::sys::process::reap_nobody();
        }
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

    /// The program becomes a child of this process, if that was asked for.
    pub(super) fn split(&mut self) -> Result<(), Fail> {
        match self.plan.stay {
            true => Ok(reaper::split(self.setup.common.proof)?),
            false => Ok(()),
        }
    }

    pub(super) fn start_container_hooks(&mut self) -> Result<(), Fail> {
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

    pub(super) fn seccomp_with_listener(&mut self) -> Result<(), Fail> {
        if self.late_filter() {
            return Ok(());
        }
        let Some(filter) = self.setup.common.seccomp else {
            return Ok(());
        };
        let namespaces = &self.plan.namespaces;
        let alone = namespaces.maps.is_some() && namespaces.is_new(LinuxNamespaceType::Pid);
        if !(self.setup.untraceable && alone) {
            return conditions::load_filter(filter, &self.progress.wire);
        }
        // The parent takes the listener by pidfd_getfd(2), which asks for the right to trace. Who is
        // alone in new user and pid namespaces can give that right for a moment; an `exec` that came
        // now would wait for an answer from this process.
        self.setup.common.show()?;
        conditions::load_filter(filter, &self.progress.wire)?;
        self.setup.common.hide()
    }

    pub(super) fn seccomp(&mut self) -> Result<(), Fail> {
        let (setup, process) = (&self.setup.common, &self.plan.process);
        let loaded = !self.late_filter();
        conditions::seccomp(setup, process, &self.progress.wire, loaded)
    }

    pub(super) fn execute(&mut self) -> Result<(), Fail> {
        let process = &self.plan.process;
        Err(program::execute(self.program, process, &mut self.missing))
    }
}
