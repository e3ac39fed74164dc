//! Runs a step in a process of its own: `rcrun build-step DIRECTORY`.
//!
//! The step goes to its standard input, which then stays open: when it is closed, since the build was
//! called off or killed, the step's container is killed. How it ended is in `result.json`.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_builder::runner::{Ended, RunStep, Runner};
use rcrun_image::registry::Cancel;
use rcrun_overlay::store::Store;
use rcrun_runtime::container::{CgroupDriver, Runtime};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::agents::{Agents, Known};
use super::places::Place;
use super::step::{Outcome, RESULT};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// The longest result.
const RESULT_LIMIT: u64 = 1 << 20;

/// Runs steps by this program.
#[derive(Debug)]
pub(crate) struct Processes<'a> {
    pub(crate) store: &'a Store,
    pub(crate) runtime: &'a Runtime,
    pub(crate) agents: &'a Known,
}

impl Runner for Processes<'_> {
    fn run(
        &self,
        step: &RunStep,
        output: &mut dyn FnMut(bool, &[u8]),
        cancel: &Cancel,
    ) -> Result<Ended> {
        let place = Place::new(self.store)?;
        let mut step = step.clone();
        let _agents = Agents::serve(&mut step, place.path(), self.agents)?;
        let mut child = self.spawn(&place)?;
        let input = child.stdin.take();
        let input: Arc<Mutex<Option<ChildStdin>>> = Arc::new(Mutex::new(input));
        send(&input, &step)?;
        let lifeline = Arc::clone(&input);
        cancel.on_cancel(move || drop(taken(&lifeline)));
        let read = follow(&mut child, output);
        if read.is_err() {
            drop(taken(&input));
        }
        let status = child.wait().context(|| "cannot wait for a step")?;
        drop(taken(&input));
        read?;
        match outcome(&place)? {
            Some(Outcome::Ended {
                code,
                out_of_memory,
            }) => Ok(Ended {
                code,
                out_of_memory,
            }),
            Some(Outcome::Failed { text, hint }) => {
                let error = Error::new(ErrorKind::FailedPrecondition, text);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            None => {
                cancel.check()?;
                let text = format!("the process of a step ended early: {status}");
                Err(Error::new(ErrorKind::Internal, text))
            }
        }
    }

    fn debug(&self, step: &RunStep) -> Result<()> {
        let place = Place::new(self.store)?;
        let mut step = step.clone();
        let _agents = Agents::serve(&mut step, place.path(), self.agents)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot create a pipe")?;
        // Without close-on-exec, unlike all of ours.
        let reader = rustix::io::dup(reader).context(|| "cannot duplicate a descriptor")?;
        let mut command = self.command(&place);
        command.args(["--step-fd", &reader.as_raw_fd().to_string()]);
        let mut child = command
            .spawn()
            .context(|| "cannot start the process of a step")?;
        drop(reader);
        let mut writer = std::fs::File::from(writer);
        write(&mut writer, &step)?;
        child.wait().context(|| "cannot wait for a step")?;
        match outcome(&place)? {
            Some(Outcome::Failed { text, .. }) => {
                Err(Error::new(ErrorKind::FailedPrecondition, text))
                    .context(|| "cannot open a shell in the step")
            }
            _ => Ok(()),
        }
    }
}

/// Writes a step as its process reads it.
fn write(sink: &mut dyn Write, step: &RunStep) -> Result<()> {
    let text = serde_json::to_vec(step)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
    let length = (text.len() as u64).to_le_bytes();
    let sent = sink.write_all(&length).and_then(|()| sink.write_all(&text));
    sent.context(|| "cannot tell a step what to do")
}

impl Processes<'_> {
    fn spawn(&self, place: &Place) -> Result<Child> {
        self.command(place)
            // Of its own group: Ctrl-C is the builder's, who ends its steps.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| "cannot start the process of a step")
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("rcrun");
        match self.runtime.cgroup_driver {
            CgroupDriver::Files => {}
            CgroupDriver::Systemd => drop(command.arg("--systemd-cgroup")),
            CgroupDriver::None => drop(command.args(["--cgroup-manager", "disabled"])),
        }
        if let Some(rootless) = self.runtime.rootless {
            command.args(["--rootless", if rootless { "true" } else { "false" }]);
        }
        command
            .arg("--root")
            .arg(&self.runtime.root)
            .arg("build-step")
            .arg(place.path());
        command
    }
}

fn taken(input: &Mutex<Option<ChildStdin>>) -> Option<ChildStdin> {
    input.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn send(input: &Mutex<Option<ChildStdin>>, step: &RunStep) -> Result<()> {
    let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
    input.as_mut().map_or(Ok(()), |input| write(input, step))
}

/// Hands on what it writes, until nobody has its outputs open.
fn follow(child: &mut Child, output: &mut dyn FnMut(bool, &[u8])) -> Result<()> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut open: Vec<(bool, BorrowedFd<'_>)> = Vec::new();
    open.extend(out.as_ref().map(|out| (false, out.as_fd())));
    open.extend(err.as_ref().map(|err| (true, err.as_fd())));
    let mut buffer = vec![0; CHUNK];
    while !open.is_empty() {
        let mut descriptors: Vec<PollFd<'_>> = open
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut descriptors, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for a step"),
        }
        let ready: Vec<bool> = descriptors
            .iter()
            .map(|one| !one.revents().is_empty())
            .collect();
        drop(descriptors);
        for index in (0..open.len()).rev().filter(|index| ready[*index]) {
            let (stderr, fd) = open[index];
            match rustix::io::read(fd, buffer.as_mut_slice()) {
                Ok(0) => drop(open.remove(index)),
                Ok(count) => output(stderr, &buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno).context(|| "cannot read what a step writes"),
            }
        }
    }
    Ok(())
}

fn outcome(place: &Place) -> Result<Option<Outcome>> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, place.path(), flags, Mode::empty())
        .context(|| format!("cannot open {}", place.path().display()))?;
    let Some(bytes) = rcrun_overlay::durable::read(&directory, RESULT, RESULT_LIMIT)? else {
        return Ok(None);
    };
    let wrong = |e| Error::new(ErrorKind::Internal, format!("cannot read {RESULT}: {e}"));
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}
