//! What the kernel tells of user namespaces (ioctl_ns(2)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::check;

const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// The namespace around a user namespace. `PERM` if that is above the caller's own.
pub fn parent(user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = user_namespace.as_raw_fd();
    // SAFETY: this request takes no argument and touches no memory of ours.
    let fd = check(i64::from(unsafe { libc::ioctl(raw, NS_GET_PARENT) }))?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The user namespace whose root has rights over a namespace of another kind. `PERM` if that is above
/// the caller's own.
pub fn user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = namespace.as_raw_fd();
    // SAFETY: this request takes no argument and touches no memory of ours.
    let fd = check(i64::from(unsafe { libc::ioctl(raw, NS_GET_USERNS) }))?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Who made a user namespace, as the caller's own user namespace calls that user.
pub fn owner(user_namespace: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    let raw = user_namespace.as_raw_fd();
    // SAFETY: the request writes one uid_t to where its argument points, which is `uid`.
    check(i64::from(unsafe {
        libc::ioctl(raw, NS_GET_OWNER_UID, &raw mut uid)
    }))?;
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_first_one_belongs_to_root_and_has_none_around_it() {
        let own = std::fs::File::open("/proc/self/ns/user").unwrap();
        let link = std::fs::read_link("/proc/self/ns/user").unwrap();
        if link.to_str() != Some("user:[4026531837]") {
            println!("skipped: not in the machine's first user namespace");
            return;
        }
        assert_eq!(owner(own.as_fd()), Ok(0));
        assert_eq!(parent(own.as_fd()).unwrap_err(), Errno::PERM);
        let other = std::fs::File::open("/proc/self/ns/mnt").unwrap();
        assert_eq!(owner(other.as_fd()).unwrap_err(), Errno::INVAL);
        use std::os::unix::fs::MetadataExt;
        let of = std::fs::File::from(user_namespace(other.as_fd()).unwrap());
        assert_eq!(of.metadata().unwrap().ino(), own.metadata().unwrap().ino());
    }
}
