//! The conversation between `rcrun` and the container's init: one SOCK_SEQPACKET pair, one fixed
//! record per message. No strings of ours cross it: the parent knows the plan and words the errors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::steps::Step;
use crate::rootfs::Detail;

/// Bytes of text a message can carry: a path from the container, as data.
const TEXT_MAX: usize = 200;
const LENGTH: usize = 32 + TEXT_MAX;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// Child: a step failed; it ends now.
    Failed = 1,
    /// Child: it cannot open the source of mount `index`; a descriptor, please.
    Source,
    /// Child: it cannot open the directory onto which its root is attached; a descriptor, please.
    Place,
    /// Child: neither it nor the host has device `index`; a mount of one, please.
    Node,
    /// Child: it may not raise resource limit `index` itself.
    Limit,
    /// Child: it may not write the offsets of its time namespace itself.
    TimeOffsets,
    /// Child: mounts and devices are done; the runtime's hooks may run.
    Mounted,
    /// Intermediate process: the init has pid `value`; its pidfd comes along.
    Init,
    /// Child: descriptor number `value` is the seccomp listener.
    Listener,
    /// Child: everything is done, up to waiting for the start.
    Ready,
    /// Parent: go on.
    Go,
    /// `exec`: descriptors of the waiting init's namespaces, please.
    Enter,
    /// Init: here is the one of kind `value`.
    Namespace,
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    /// What it says.
    pub tag: Tag,
    /// The step that failed.
    pub step: Step,
    /// What it was doing.
    pub detail: Detail,
    /// The kernel's answer, or a wait status.
    pub errno: i32,
    /// Which mount, device, path or hook.
    pub index: u32,
    /// A pid or descriptor.
    pub value: i64,
    text: [u8; TEXT_MAX],
}

impl Message {
    /// A message that is nothing but its tag.
    pub(crate) fn new(tag: Tag) -> Self {
        Self {
            tag,
            step: Step::Wait,
            detail: Detail::Call,
            errno: 0,
            index: 0,
            value: 0,
            text: [0; TEXT_MAX],
        }
    }

    /// Adds text, cut to what fits.
    pub(crate) fn set_text(&mut self, text: &[u8]) {
        let length = text.len().min(TEXT_MAX);
        self.text[..length].copy_from_slice(&text[..length]);
    }

    /// The text, without the padding.
    pub(crate) fn text(&self) -> &[u8] {
        let end = self.text.iter().position(|b| *b == 0).unwrap_or(TEXT_MAX);
        &self.text[..end]
    }

    fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = self.tag as u8;
        bytes[1] = self.step as u8;
        bytes[2] = self.detail as u8;
        bytes[4..8].copy_from_slice(&self.errno.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.index.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.value.to_ne_bytes());
        bytes[32..].copy_from_slice(&self.text);
        bytes
    }

    fn decode(bytes: &[u8; LENGTH]) -> Result<Self, Errno> {
        let [t0, t1, t2, t3] = [bytes[4], bytes[5], bytes[6], bytes[7]];
        let mut value = [0; 8];
        value.copy_from_slice(&bytes[16..24]);
        let mut text = [0; TEXT_MAX];
        text.copy_from_slice(&bytes[32..]);
        Ok(Self {
            tag: TAGS
                .get(usize::from(bytes[0]).wrapping_sub(1))
                .copied()
                .ok_or(Errno::PROTO)?,
            step: Step::ALL
                .get(usize::from(bytes[1]))
                .copied()
                .ok_or(Errno::PROTO)?,
            detail: Detail::ALL
                .get(usize::from(bytes[2]))
                .copied()
                .ok_or(Errno::PROTO)?,
            errno: i32::from_ne_bytes([t0, t1, t2, t3]),
            index: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            value: i64::from_ne_bytes(value),
            text,
        })
    }
}

const TAGS: [Tag; 13] = [
    Tag::Failed,
    Tag::Source,
    Tag::Place,
    Tag::Node,
    Tag::Limit,
    Tag::TimeOffsets,
    Tag::Mounted,
    Tag::Init,
    Tag::Listener,
    Tag::Ready,
    Tag::Go,
    Tag::Enter,
    Tag::Namespace,
];

/// One end.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self), Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Closes this end in a freshly cloned process, where it belongs to the other side. The owner is
    /// never dropped there: the process ends in `execve` or `_exit`.
    pub(crate) fn close_in_child(&self) {
        use std::os::fd::AsRawFd as _;
        if let Ok(number) = u32::try_from(self.0.as_raw_fd()) {
            let _ = crate::sys::process::close_range(number, number);
        }
    }

    /// Takes over a connected SEQPACKET socket.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message with write(2), the call that every seccomp profile allows.
    pub(crate) fn send(&self, message: &Message) -> Result<(), Errno> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &message.encode())).map(drop)
    }

    /// Sends a message with a descriptor.
    pub(crate) fn send_with(&self, message: &Message, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = message.encode();
        let parts = [IoSlice::new(&bytes)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL)
        })
        .map(drop)
    }

    /// Receives a message and the descriptor that came with it; `None` when the other end is gone.
    pub(crate) fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
        let mut bytes = [0; LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            rustix::io::retry_on_intr(|| {
                rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            })?
            .bytes
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match length {
            0 => Ok(None),
            LENGTH => Ok(Some((Message::decode(&bytes)?, fd))),
            _ => Err(Errno::PROTO),
        }
    }

    /// Waits for the other side's `Go`; EPIPE when it is gone.
    pub(crate) fn wait_go(&self) -> Result<(), Errno> {
        match self.receive()? {
            Some((message, _)) if message.tag == Tag::Go => Ok(()),
            Some(_) => Err(Errno::PROTO),
            None => Err(Errno::PIPE),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (a, b) = Wire::pair().unwrap();
        let mut message = Message::new(Tag::Failed);
        message.step = Step::Mounts;
        message.detail = Detail::Attach;
        (message.errno, message.index, message.value) = (13, 7, -1);
        message.set_text(b"/bin/sh");
        let null = std::fs::File::open("/dev/null").unwrap();
        a.send_with(&message, null.as_fd()).unwrap();
        let (got, fd) = b.receive().unwrap().unwrap();
        assert_eq!(
            (got.tag, got.step, got.detail),
            (Tag::Failed, Step::Mounts, Detail::Attach)
        );
        assert_eq!((got.errno, got.index, got.value), (13, 7, -1));
        assert_eq!(got.text(), b"/bin/sh");
        assert!(fd.is_some());
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn every_step_and_detail_survives_encoding() {
        for (number, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, number);
        }
        for (number, detail) in Detail::ALL.iter().enumerate() {
            assert_eq!(*detail as usize, number);
        }
        for (number, tag) in TAGS.iter().enumerate() {
            assert_eq!(*tag as usize, number + 1);
        }
    }
}
