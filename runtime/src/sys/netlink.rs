//! Network interface calls that are safe to make between clone3 and execve.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Sets the loopback interface of the calling process's network namespace up.
///
/// Neither allocates nor locks. Any socket will do for the call; kernels without IPv4 have AF_UNIX.
pub fn lo_up() -> Result<(), Errno> {
    let socket = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = match socket(AddressFamily::INET) {
        Err(Errno::AFNOSUPPORT) => socket(AddressFamily::UNIX)?,
        other => other?,
    };
    set_up(&socket, *b"lo")
}

fn set_up(socket: &OwnedFd, name: [u8; 2]) -> Result<(), Errno> {
    // SAFETY: `ifreq` is plain data of integers and a union of such; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = name[0] as libc::c_char;
    request.ifr_name[1] = name[1] as libc::c_char;
    // RUNNING is ignored on setting; the kernel keeps LOOPBACK by itself.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq` through the pointer, which is alive and filled in above;
    // the name is terminated by the zeroes behind it.
    let ret = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if ret == 0 {
        return Ok(());
    }
    let code = std::io::Error::last_os_error().raw_os_error();
    Err(Errno::from_raw_os_error(code.unwrap_or(libc::EIO)))
}
