//! What the parent says to an init that is on its way, until that is ready.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::ContainerState;
use rustix::io::Errno;

use super::Launch;
use crate::cgroup::Select;
use crate::container::Status;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::wire::{Message, Tag, Wire};
use crate::launch::{nodes, parent};
use crate::operations::handover::{send_listener, send_pidfd, write_pid_file};
use crate::operations::hooks;

impl Launch<'_> {
    /// Answers the init until it is ready.
    pub(super) fn converse(&self, wire: &Wire, pid: i32) -> Result<()> {
        loop {
            let received = wire
                .receive()
                .context(|| "cannot hear from the container's init")?;
            let Some((message, _)) = received else {
                let limited = self.resources().is_some_and(|r| r.memory().is_some());
                return Err(parent::vanished(self.pidfd()?, limited));
            };
            match message.tag {
                Tag::Failed => return Err(self.explain(&message)),
                Tag::Source => self.answer_source(wire, pid, message.index as usize)?,
                Tag::Place => {
                    let place = parent::fetch_place(self.proof, &self.plan, pid)?;
                    wire.send_with(&Message::new(Tag::Go), place.as_fd())
                        .context(|| "cannot send a directory to the init")?;
                }
                Tag::Node => self.answer_node(wire, message.index as usize)?,
                Tag::TimeOffsets => {
                    let offsets = self.plan.namespaces.new_time.as_deref().unwrap_or_default();
                    parent::write_of(&self.proc, pid, "timens_offsets", offsets.to_bytes())
                        .context(|| "cannot set the offsets of the time namespace")?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Limit => {
                    parent::raise_limit(pid, &self.plan.process, message.index as usize)?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Mounted => {
                    self.run_early_hooks()?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Listener => {
                    send_listener(
                        self.pidfd()?,
                        &message,
                        self.filter.as_ref(),
                        &self.record,
                        ContainerState::Creating,
                    )?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Ready => return self.settle(pid),
                Tag::Init | Tag::Go | Tag::Enter | Tag::Namespace => {
                    return Err(Error::new(ErrorKind::Internal, "unexpected message"));
                }
            }
        }
    }

    fn answer_source(&self, wire: &Wire, pid: i32, index: usize) -> Result<()> {
        match parent::fetch_source(self.proof, &self.plan, pid, index) {
            Ok(tree) => wire
                .send_with(&Message::new(Tag::Go), tree.as_fd())
                .context(|| "cannot send a mount to the init"),
            Err(error) => {
                let target = self
                    .plan
                    .mounts
                    .iter()
                    .find(|m| m.index == index)
                    .map(|m| &m.target);
                let target = target
                    .map(|t| t.to_string_lossy().into_owned())
                    .unwrap_or_default();
                Err(error.context(format!(
                    "error mounting mounts[{index}] to rootfs at {target:?}"
                )))
            }
        }
    }

    /// A device that neither the container nor the host has. Why there is none to be had either is
    /// said to who looks for it; the init reports that the host has none.
    fn answer_node(&self, wire: &Wire, index: usize) -> Result<()> {
        let sent = match self.make_node(index) {
            Ok(tree) => wire.send_with(&Message::new(Tag::Go), tree.as_fd()),
            Err(error) => {
                tracing::debug!("device {index}: {}", error.chain());
                let mut nothing = Message::new(Tag::Go);
                nothing.errno = Errno::NOENT.raw_os_error();
                wire.send(&nothing)
            }
        };
        sent.context(|| "cannot send a device to the init")
    }

    fn make_node(&self, index: usize) -> Result<OwnedFd> {
        let unknown = || Error::new(ErrorKind::Internal, "there is no such device or owner");
        let device = self.plan.devices.get(index).ok_or_else(unknown)?;
        let namespaces = &self.plan.namespaces;
        let owner = (namespaces.host_uid(device.uid)).zip(namespaces.host_gid(device.gid));
        let label = self
            .plan
            .mount_label
            .as_ref()
            .map(|label| label.to_string_lossy());
        let label = label.map_or_else(String::new, |label| format!(",context=\"{label}\""));
        let options = crate::plan::c_string(&format!("mode=0755,nr_inodes=8,size=64k{label}"))?;
        nodes::make(self.proof, device, owner.ok_or_else(unknown)?, &options)
    }

    fn run_early_hooks(&self) -> Result<()> {
        let (Some(files), Some(hooks)) = (&self.hooks, self.spec.hooks()) else {
            return Ok(());
        };
        // Deprecated hooks are part of `start`: for them the container has been created.
        files.set_state(&self.record, Status::Created)?;
        let prestart = hooks::prestart(hooks);
        files.run(self.proof, &self.record.bundle, "prestart", Some(&prestart))?;
        files.set_state(&self.record, Status::Creating)?;
        files.run(
            self.proof,
            &self.record.bundle,
            "createRuntime",
            hooks.create_runtime().as_ref(),
        )?;
        files.set_state(&self.record, Status::Creating)
    }

    /// The last of what only the parent may do.
    fn settle(&self, pid: i32) -> Result<()> {
        tracing::debug!("init: closing the pipe to signal completion");
        self.apply(Select::MEMORY)?;
        if let Some(files) = &self.hooks {
            files.set_state(&self.record, Status::Created)?;
        }
        if let Some(path) = &self.options.pidfd_socket {
            send_pidfd(path, self.pidfd()?)?;
        }
        match &self.options.pid_file {
            Some(path) => write_pid_file(path, pid),
            None => Ok(()),
        }
    }
}
