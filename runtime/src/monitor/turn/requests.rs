//! What clients ask of a monitor.

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::Monitor;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::monitor::launch::Size;
use crate::monitor::log_file::LogFile;
use crate::monitor::protocol::{self, Request, Status};
use crate::monitor::serve::resize;
use crate::operations::caller::prove_single_threaded;
use crate::sys::process::{CloneArgs, Cloned, clone, exit_now};

impl Monitor {
    /// Does what a client asks for; `None`: it is answered later.
    pub(super) fn obey(
        &mut self,
        index: usize,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Result<Value>> {
        let done = |result: Result<()>| Some(result.map(|()| json!({})));
        match request.op.as_str() {
            "status" => Some(Ok(json!({ "status": self.status() }))),
            "attach" => Some(self.attach(index, request, descriptors)),
            "detach" => {
                self.peers[index].detach();
                done(Ok(()))
            }
            "close_stdin" => {
                self.input.end();
                self.drop_useless_input();
                done(Ok(()))
            }
            "resize" => done(self.resize(request)),
            "reopen_log" => done(self.reopen_log()),
            "start" => self.start(index).err().map(Err),
            "wait" => {
                self.peers[index].waiting = true;
                None
            }
            other => done(Err(Error::unsupported(format!(
                "cannot {other:?}: this monitor does not know how"
            )))),
        }
    }

    fn status(&self) -> Status {
        Status {
            pid: self.pid,
            monitor: std::process::id(),
            terminal: self.master.is_some(),
            stdin: self.input.is_open(),
            oom: self.oom_seen || self.exit.as_ref().is_some_and(|ended| ended.exit.oom),
            attached: self.peers.iter().filter(|peer| peer.attached).count(),
            log_lost: self.log.as_ref().map_or(0, LogFile::lost),
            exit: self.exit.as_ref().map(|ended| ended.exit.clone()),
        }
    }

    fn attach(
        &mut self,
        index: usize,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Value> {
        let peer = &mut self.peers[index];
        if peer.attached {
            let why = "this client is attached already";
            return Err(Error::new(ErrorKind::FailedPrecondition, why));
        }
        if request.logs {
            let why = "what was printed before is in the log: a monitor does not replay it";
            return Err(Error::unsupported(why));
        }
        peer.attach(&request.streams, descriptors, request.lossless)?;
        self.drop_useless_input();
        Ok(json!({ "terminal": self.master.is_some() }))
    }

    fn resize(&self, request: &Request) -> Result<()> {
        let (Some(height), Some(width)) = (request.height, request.width) else {
            return Err(Error::invalid("resize takes height and width"));
        };
        let Some(master) = &self.master else {
            let why = "the container has no terminal";
            return Err(Error::new(ErrorKind::FailedPrecondition, why));
        };
        resize(master, Size { height, width }).context(|| "cannot resize the terminal")
    }

    fn reopen_log(&mut self) -> Result<()> {
        match &mut self.log {
            Some(log) => log.reopen(),
            None => Err(Error::new(
                ErrorKind::FailedPrecondition,
                "the container has no log",
            )),
        }
    }

    /// Starts the container from a copy of this process, which answers the client itself: hooks may take
    /// their time, and output must not wait for them.
    fn start(&self, index: usize) -> Result<()> {
        let proof = prove_single_threaded()?;
        let cloned = clone(proof, &CloneArgs::default()).context(|| "cannot make a process")?;
        if let Cloned::Child = cloned {
            let runtime = self.launch.runtime();
            let id = &self.launch.id;
            let start = std::panic::AssertUnwindSafe(|| runtime.start(id));
            let result = std::panic::catch_unwind(start)
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "cannot start: a defect")));
            let answer = protocol::answer("start", result.map(|()| json!({})));
            let socket = &self.peers[index].socket;
            let _ = protocol::send(socket, &answer, &[], rustix::net::SendFlags::DONTWAIT);
            exit_now(0);
        }
        Ok(())
    }
}
