//! Port-forward: a connection to `localhost` within a pod.
//!
//! A socket belongs to the network namespace of the thread that makes it, for ever. So a thread enters the
//! pod's, makes the sockets, and ends: it does nothing else before or after. They are connected here, as all
//! others. A pod in the node's network has the node's `localhost`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;
use rcrun_runtime::pin;
use rcrun_streaming::Duplex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::copy::{PIECE, tight};
use super::of_status;
use crate::core::{Core, Pod};
use crate::network_thread;
use crate::{Context, Error, ErrorKind, Result};

/// The order in which addresses are tried, as with containerd.
const LOCALHOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Connects, and passes on until both directions have ended.
pub(super) async fn forward(
    core: &Arc<Core>,
    pod: &Arc<Pod>,
    port: u16,
    stream: Duplex,
) -> Result<()> {
    let gone = stream.gone.clone();
    let both = async {
        let connection = dial(core, pod, port).await?;
        pass(connection, stream).await
    };
    tokio::select! {
        ended = both => ended.context(|| format!("port {port} of pod {}", pod.id)),
        () = gone.wait() => Err(Error::new(ErrorKind::Unavailable, "the client is gone")),
    }
}

/// Connects to the first of both that listens.
async fn dial(core: &Arc<Core>, pod: &Arc<Pod>, port: u16) -> Result<TcpStream> {
    let namespace = match pod.state().record.connected {
        true => Some(core.places.of_boot(&pod.id)),
        false => None,
    };
    let opening = core.light.run(move || {
        let namespace = namespace.map(|directory| pin::open(&directory, "net"));
        sockets(namespace.transpose()?)
    });
    let mut failed = None;
    for (socket, address) in opening.await.map_err(of_status)?.into_iter().zip(LOCALHOST) {
        let Some(socket) = socket else { continue };
        let address = SocketAddr::new(address, port);
        match connect(socket, address).await {
            Ok(stream) => return Ok(stream),
            // The first one's reason is the one that is meant.
            Err(error) => failed = failed.or(Some((error, address))),
        }
    }
    match failed {
        Some((error, address)) => Err(error).context(|| format!("cannot connect to {address}")),
        None => Err(Error::new(
            ErrorKind::Unavailable,
            "this machine has neither IPv4 nor IPv6",
        )),
    }
}

async fn connect(socket: OwnedFd, address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(socket);
    let stream = TcpSocket::from_std_stream(stream).connect(address).await?;
    // What waits in the kernel is as good as sent: the client has its own pace.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sockets of a network namespace, or of this one; none of a kind that the kernel does not have.
fn sockets(namespace: Option<OwnedFd>) -> Result<[Option<OwnedFd>; 2]> {
    let Some(namespace) = namespace else {
        return open();
    };
    network_thread::run("rcrun-dial", move || {
        network_thread::enter(&namespace)?;
        open()
    })
}

fn open() -> Result<[Option<OwnedFd>; 2]> {
    use rustix::io::Errno;
    let one = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP));
        match made {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AFNOSUPPORT) => Ok(None),
            Err(errno) => Err(errno).context(|| "cannot make a socket"),
        }
    };
    Ok([one(AddressFamily::INET)?, one(AddressFamily::INET6)?])
}

/// Each direction ends by itself: what the pod says is heard also when it listens no more.
async fn pass(connection: TcpStream, stream: Duplex) -> Result<()> {
    let (from_pod, mut to_pod) = connection.into_split();
    let Duplex {
        mut from, mut to, ..
    } = stream;
    let inward = async {
        let copied = async {
            while let Some(piece) = from.piece(PIECE).await? {
                to_pod.write_all(&piece).await?;
            }
            to_pod.shutdown().await
        };
        // What is wrong with the connection is seen by the other direction.
        let _ = copied.await;
        Ok::<_, std::io::Error>(())
    };
    let outward = async {
        loop {
            from_pod.readable().await?;
            let mut buffer = BytesMut::with_capacity(PIECE);
            match from_pod.try_read_buf(&mut buffer) {
                Ok(0) => break,
                Ok(_) => to.send(tight(buffer)).await?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        to.finish();
        Ok(())
    };
    let passed = tokio::try_join!(inward, outward);
    passed.map(drop).context(|| "the connection broke")
}
