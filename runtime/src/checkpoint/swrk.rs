//! The process `criu swrk FD` and the conversation with it: one SOCK_SEQPACKET pair, one message per
//! record, criu ends when the caller's side is closed.
//!
//! criu opens the descriptors named in a request through /proc of the process that made the socket,
//! so they need not be handed down; those it shall inherit are, under the numbers they have here.

use std::ffi::{CString, OsString};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    Shutdown, SocketFlags, SocketType,
};

use super::root::Root;
use super::rpc::{self, Features, Kind, Options, Response, Version};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::child::Progress;
use crate::launch::hooks::ends_within;
use crate::launch::parent::reap;
use crate::launch::steps::Step;
use crate::launch::wire::{Message, Tag, Wire};
use crate::plan::{c_path, c_string};
use crate::rootfs::Fail;
use crate::sys::exec::{self, Vector};
use crate::sys::process as sys;
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone};

/// The oldest criu that can be asked for its version.
const OLDEST: Version = Version(30_000);
/// Longest answer: a record of a socket that is not split.
const ANSWER_MAX: usize = 64 << 10;
/// How long criu may take to end after its socket was closed.
const END_TIME: Duration = Duration::from_secs(10);

/// How criu is started.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// `--criu`.
    pub program: Option<&'a Path>,
    /// criu's standard streams, and with them those of what it restores.
    pub streams: Streams<'a>,
    /// Descriptors that criu inherits besides.
    pub inherited: &'a [OwnedFd],
    /// The root directory made ready in a mount namespace of criu's own.
    pub root: Option<&'a Root>,
    /// criu gets a cgroup namespace of its own, which what it restores inherits; before that it has to be
    /// put where the root of that is to be.
    pub cgroup_namespace: bool,
    /// How long criu may say nothing; `None`: for ever.
    pub patience: Option<Duration>,
}

/// Standard streams for criu.
#[derive(Debug, Clone, Copy)]
pub(super) enum Streams<'a> {
    /// /dev/null.
    Nothing,
    /// The caller's own.
    Callers,
    /// These.
    Given([BorrowedFd<'a>; 3]),
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// criu says so; its log knows why.
    Refused(Response),
    /// criu ended, or cannot be understood; its log may know why.
    Broken(Error),
    /// What was to be done at a notification.
    Ours(Error),
}

/// A running criu.
#[derive(Debug)]
pub(super) struct Criu {
    socket: OwnedFd,
    process: Option<OwnedFd>,
    /// Its pid.
    pub pid: i32,
    /// Its version.
    pub version: Version,
    /// The directories of [`Start::root`], opened in criu's mount namespace.
    pub directories: Vec<OwnedFd>,
}

/// Answers criu's notifications: what happened, the process concerned, a descriptor that came along.
pub(super) type Notify<'a> = dyn FnMut(&str, Option<i32>, Option<OwnedFd>) -> Result<()> + 'a;

impl Criu {
    /// Starts criu and asks for its version. `place` puts it into its cgroup, before it is executed.
    pub(super) fn start(
        proof: SingleThreaded,
        start: &Start<'_>,
        place: &mut dyn FnMut(i32) -> Result<()>,
    ) -> Result<Self> {
        let path = find(start.program)?;
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        let (socket, theirs) = pair.context(|| "cannot create a socket pair")?;
        set_socket_timeout(&socket, Timeout::Recv, start.patience)
            .context(|| "cannot limit the time of criu")?;
        let null = match start.streams {
            Streams::Nothing => Some(open_null()?),
            Streams::Callers | Streams::Given(_) => None,
        };
        let (wire, child_wire) = Wire::pair().context(|| "cannot create a socket pair")?;
        let arguments = ["criu", "swrk", &theirs.as_raw_fd().to_string()]
            .into_iter()
            .map(c_string)
            .collect::<Result<_>>()?;
        let (arguments, environment) = (Vector::new(arguments), Vector::new(environment()?));
        let namespace = start.root.map_or(0, |_| libc::CLONE_NEWNS as u64);
        let args = CloneArgs {
            flags: namespace,
            cgroup: None,
        };
        let (pid, process) = match clone(proof, &args).context(|| "cannot fork")? {
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
            Cloned::Child => {
                let mut progress = Progress {
                    wire: child_wire,
                    index: 0,
                };
                if let Err(fail) = prepare(start, &theirs, null.as_ref(), &mut progress) {
                    progress.fail(Step::Mounts, fail, b"");
                }
                let errno = exec::execve(&path, &arguments, &environment);
                progress.fail(Step::Exec, errno.into(), b"")
            }
        };
        drop((theirs, child_wire));
        let mut criu = Self {
            socket,
            process: Some(process),
            pid,
            version: Version::default(),
            directories: Vec::new(),
        };
        if let Err(error) = place(pid) {
            // It waits for this end of the wire.
            drop(wire);
            return Err(error);
        }
        // That it is gone is seen below.
        let _ = wire.send(&Message::new(Tag::Go));
        // The child's end closes when criu is executed.
        while let Some((message, fd)) = wire
            .receive()
            .context(|| "cannot hear from criu's process")?
        {
            match fd {
                Some(fd) => criu.directories.push(fd),
                None => return Err(start_error(&message, start, &path)),
            }
        }
        let answer = criu.ask(Kind::Version)?;
        criu.version = answer.version.unwrap_or_default();
        tracing::debug!("using criu {}", criu.version);
        criu.require(OLDEST, "checkpoint and restore")?;
        Ok(criu)
    }

    /// An error when this criu is older than `wanted`.
    pub(super) fn require(&self, wanted: Version, purpose: &str) -> Result<()> {
        if self.version >= wanted {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "criu {} is too old: {purpose} needs {wanted} or later: install that, or name another \
             with --criu",
            self.version
        )))
    }

    /// Which features this criu and this kernel have together.
    pub(super) fn features(&mut self) -> Result<Features> {
        Ok(self.ask(Kind::FeatureCheck)?.features.unwrap_or_default())
    }

    fn ask(&mut self, kind: Kind) -> Result<Response> {
        self.send(&rpc::question(kind))?;
        let (response, _) = self.receive()?;
        if !response.success {
            let reason = response.message.as_deref().unwrap_or_default();
            let text = format!("{}: {reason}", refusal(&response));
            return Err(Error::new(ErrorKind::Internal, text));
        }
        Ok(response)
    }

    /// Carries out a request, answering what criu asks meanwhile, and waits for criu's end.
    ///
    /// When `notify` fails, criu is told so and undoes what it did.
    pub(super) fn carry_out(
        mut self,
        kind: Kind,
        options: &Options,
        notify: &mut Notify<'_>,
    ) -> Result<(), Failure> {
        tracing::debug!("criu request {kind:?}: {options:?}");
        self.send(&rpc::request(kind, options))
            .map_err(Failure::Broken)?;
        let mut first = None;
        let result = self.converse(notify, &mut first);
        match first {
            Some(error) => return Err(Failure::Ours(error)),
            None => result?,
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let status = reap(process.as_fd())
            .context(|| "cannot wait for criu")
            .map_err(Failure::Broken)?;
        // After a pre-dump criu waits for the dump proper, and does not like that none comes.
        if kind == Kind::PreDump || status.exit_status() == Some(0) {
            return Ok(());
        }
        let code = crate::launch::parent::exit_code(&status);
        let text = format!("criu failed: exit status {code}");
        Err(Failure::Broken(Error::new(ErrorKind::Internal, text)))
    }

    /// Until the request is answered. `first` is the first error of `notify`.
    fn converse(&self, notify: &mut Notify<'_>, first: &mut Option<Error>) -> Result<(), Failure> {
        loop {
            let (response, fd) = self.receive().map_err(Failure::Broken)?;
            if !response.success {
                return Err(Failure::Refused(response));
            }
            let Some((script, pid)) = &response.notify else {
                return Ok(());
            };
            tracing::debug!("notify: {script}");
            let result = notify(script, *pid, fd);
            let good = result.is_ok();
            if let Err(error) = result {
                first.get_or_insert(error);
            }
            self.send(&rpc::acknowledge(good))
                .map_err(Failure::Broken)?;
        }
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        match rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ended()),
            Err(errno) => Err(errno).context(|| "cannot send a request to criu"),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0; ANSWER_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(
                &self.socket,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let message = match message {
            // criu may be gone with requests unread.
            Err(Errno::CONNRESET) => return Err(ended()),
            Err(Errno::AGAIN) => {
                let text = "criu says nothing any more: it was ended";
                return Err(Error::new(ErrorKind::Deadline, text));
            }
            other => other.context(|| "cannot hear from criu")?,
        };
        if message.bytes == 0 {
            return Err(ended());
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            let text = format!("criu's answer is longer than {ANSWER_MAX} bytes");
            return Err(Error::new(ErrorKind::Internal, text));
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((Response::decode(&bytes[..message.bytes])?, fd))
    }
}

impl Drop for Criu {
    /// After an error: closing the socket makes criu undo what it did and end.
    fn drop(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if !ends_within(&process, END_TIME).unwrap_or(false) {
            let _ = sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        }
        let _ = reap(process.as_fd());
    }
}

fn ended() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "criu failed: it ended without an answer",
    )
}

/// Between fork and execve: allocates nothing.
fn prepare(
    start: &Start<'_>,
    socket: &OwnedFd,
    null: Option<&OwnedFd>,
    progress: &mut Progress,
) -> Result<(), Fail> {
    if let Some(root) = start.root {
        root.prepare(&progress.wire, &mut progress.index)?;
    }
    progress.wire.wait_go()?;
    if start.cgroup_namespace {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
    }
    if let Some(null) = null {
        for number in 0..=2 {
            sys::dup_onto(null.as_fd(), number)?;
        }
    }
    if let Streams::Given(streams) = start.streams {
        for (number, stream) in (0..=2).zip(streams) {
            sys::dup_onto(stream, number)?;
        }
    }
    match sys::close_range_cloexec(3, u32::MAX) {
        // Everything of ours has the flag already.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    sys::set_cloexec(socket.as_raw_fd(), false)?;
    for fd in start.inherited {
        sys::set_cloexec(fd.as_raw_fd(), false)?;
    }
    sys::restore_signals();
    Ok(())
}

fn open_null() -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty())
        .context(|| "cannot open /dev/null")
}

/// What failed before criu was executed.
fn start_error(message: &Message, start: &Start<'_>, path: &CString) -> Error {
    let error = Error::from(Errno::from_raw_os_error(message.errno));
    match start.root.filter(|_| message.step == Step::Mounts) {
        Some(root) => error.context(root.place(message.index)),
        None => error.context(format!("cannot execute {}", path.to_string_lossy())),
    }
}

/// The environment, as it is.
fn environment() -> Result<Vec<CString>> {
    std::env::vars_os()
        .map(|(name, value)| {
            let mut entry: OsString = name;
            entry.push("=");
            entry.push(value);
            c_path(&PathBuf::from(entry))
        })
        .collect()
}

/// The program: a path with a slash as it is, a name in `$PATH`.
pub(super) fn find(program: Option<&Path>) -> Result<CString> {
    let name = program.unwrap_or(Path::new("criu"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = candidates(name, path.as_bytes())
        .into_iter()
        .find(|path| is_program(path));
    match found {
        Some(path) => c_path(&path),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "cannot find {}: checkpoint and restore need criu {OLDEST} or later: install it, or \
                 name it with --criu",
                name.display()
            ),
        )),
    }
}

fn candidates(name: &Path, path: &[u8]) -> Vec<PathBuf> {
    if name.as_os_str().as_encoded_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    let directories = path.split(|b| *b == b':').filter(|d| !d.is_empty());
    directories
        .map(|d| PathBuf::from(OsString::from_vec(d.to_vec())).join(name))
        .collect()
}

fn is_program(path: &Path) -> bool {
    let is_file = rustix::fs::stat(path).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
    });
    is_file && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// criu's refusal, in the words that other runtimes use.
pub(super) fn refusal(response: &Response) -> String {
    let kind = rpc::kind_name(response.kind);
    format!("criu failed: type {kind} errno {}", response.errno)
}

/// Tells whoever waits at the other end of `fd` that pages are served.
pub(super) fn tell_ready(fd: BorrowedFd<'_>) {
    if let Err(errno) = rustix::io::write(fd, &[0]) {
        tracing::warn!("cannot write to --status-fd: {errno}");
    }
}

/// Ends the caller's copy of a descriptor that was handed down by number.
pub(super) fn close_inherited(fd: i32) {
    if let Ok(fd) = u32::try_from(fd) {
        let _ = sys::close_range(fd, fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_like_a_shell_does() {
        let path = b"/a::/b";
        let names = |name: &str| candidates(Path::new(name), path);
        assert_eq!(names("criu"), [Path::new("/a/criu"), Path::new("/b/criu")]);
        assert_eq!(names("./criu"), [Path::new("./criu")]);
        assert_eq!(names("/x/criu"), [Path::new("/x/criu")]);
    }

    #[test]
    fn a_missing_criu_is_one_error_with_a_remedy() {
        let error = find(Some(Path::new("/nonexistent/criu"))).unwrap_err();
        let text = error.chain().to_string();
        assert!(
            text.contains("/nonexistent/criu") && text.contains("install it"),
            "{text}"
        );
        assert!(
            find(Some(Path::new("/etc"))).is_err(),
            "a directory is no program"
        );
    }

    #[test]
    fn refusals_name_type_and_errno() {
        let response = Response {
            kind: 1,
            errno: 22,
            ..Response::default()
        };
        assert_eq!(refusal(&response), "criu failed: type DUMP errno 22");
    }
}
