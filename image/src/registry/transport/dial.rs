//! Connecting to one of several addresses: "happy eyeballs" (RFC 8305, section 5).
//!
//! The addresses come in the order to try them, families in turn. The next one is begun when the last
//! one failed or has not answered for a quarter of a second; those before it go on, and whichever
//! answers first is taken. So a network that swallows one family costs that quarter.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

/// RFC 8305, "Connection Attempt Delay".
const DELAY: Duration = Duration::from_millis(250);
/// How often it is looked whether all is called off.
const GLANCE: Duration = Duration::from_millis(100);

/// Connects to whichever address answers first, within `limit`. `prepare` is called with each socket
/// before it is used. Error: that of the last address, or `TimedOut`.
pub(super) fn dial(
    addresses: &[SocketAddr],
    limit: Option<Duration>,
    prepare: &dyn Fn(&OwnedFd, &SocketAddr),
    called_off: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    let began = Instant::now();
    let mut rest = addresses.iter();
    let mut under_way: Vec<OwnedFd> = Vec::new();
    let mut next_at = began;
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    loop {
        if under_way.is_empty() || Instant::now() >= next_at {
            match rest.next().map(|address| begin(address, prepare)) {
                Some(Ok(socket)) => {
                    under_way.push(socket);
                    next_at = Instant::now() + DELAY;
                }
                // Nobody to wait for: such as no route to this family.
                Some(Err(error)) => {
                    last = error;
                    continue;
                }
                None if under_way.is_empty() => return Err(last),
                None => {}
            }
        }
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        if called_off() || left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut wait = left.map_or(GLANCE, |left| left.min(GLANCE));
        if rest.len() > 0 {
            wait = wait.min(next_at.saturating_duration_since(Instant::now()));
        }
        if let Some(index) = answered(&under_way, wait)? {
            let socket = under_way.swap_remove(index);
            match sockopt::socket_error(&socket)? {
                Ok(()) => return finish(socket),
                Err(errno) => {
                    last = errno.into();
                    next_at = Instant::now();
                }
            }
        }
    }
}

fn begin(address: &SocketAddr, prepare: &dyn Fn(&OwnedFd, &SocketAddr)) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    prepare(&socket, address);
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

/// Which of them has connected or failed; none if that takes longer.
fn answered(under_way: &[OwnedFd], wait: Duration) -> io::Result<Option<usize>> {
    let mut polled: Vec<PollFd<'_>> = under_way
        .iter()
        .map(|socket| PollFd::new(socket, PollFlags::OUT))
        .collect();
    let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&wait)) {
        Ok(_) => Ok(polled.iter().position(|one| !one.revents().is_empty())),
        Err(Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn finish(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn to(addresses: &[SocketAddr], limit: Duration) -> io::Result<SocketAddr> {
        dial(addresses, Some(limit), &|_, _| {}, &|| false)?.peer_addr()
    }

    /// An address that does not answer: its queue of connections is full.
    fn silent() -> (Vec<TcpStream>, OwnedFd, SocketAddr) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        rustix::net::bind(&socket, &any).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        let address = SocketAddr::try_from(address).unwrap();
        let mut taken = Vec::new();
        while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            taken.push(one);
        }
        (taken, socket, address)
    }

    #[test]
    fn one_that_is_silent_costs_a_quarter_of_a_second() {
        let (_taken, _listening, silent) = silent();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = there.local_addr().map(|address| (there, address)).unwrap();
        let began = Instant::now();
        let found = to(&[silent, there.1], Duration::from_secs(20)).unwrap();
        assert_eq!(found, there.1);
        let time = began.elapsed();
        assert!(time >= DELAY && time < Duration::from_secs(5), "{time:?}");
    }

    #[test]
    fn one_that_refuses_costs_nothing() {
        let refused = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let unreachable: SocketAddr = "[100::1]:1".parse().unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = there.local_addr().unwrap();
        let began = Instant::now();
        let limit = Duration::from_secs(20);
        assert_eq!(to(&[refused, address], limit).unwrap(), address);
        assert_eq!(to(&[refused, refused, address], limit).unwrap(), address);
        assert_eq!(
            to(&[refused], limit).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(
            to(&[], limit).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(began.elapsed() < DELAY);
        // With a route it is silent, without one it fails at once: the other is taken.
        assert_eq!(to(&[unreachable, address], limit).unwrap(), address);
    }

    #[test]
    fn waiting_has_an_end() {
        let (_taken, _listening, silent) = silent();
        let began = Instant::now();
        let error = to(&[silent], Duration::from_millis(120)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let called = dial(&[silent, silent], None, &|_, _| {}, &|| {
            began.elapsed() > Duration::from_millis(300)
        });
        assert_eq!(called.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
