//! Session keyrings (keyctl(2)).

use std::ffi::CStr;

use rustix::io::Errno;

use super::check;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
const KEYCTL_SETPERM: libc::c_long = 5;
const KEYCTL_DESCRIBE: libc::c_long = 6;
const KEY_USR_SEARCH: u32 = 0x0008_0000;

/// Joins a new session keyring called `name` and returns its serial number.
pub fn join_session(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: `name` is a valid C string for the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|serial| serial as i32)
}

/// Lets the keyring's user search it as well as its possessor: what `exec`ed processes of another
/// session need, and what runc grants.
pub fn allow_user_search(serial: i32) -> Result<(), Errno> {
    let mut text = [0u8; 512];
    // SAFETY: the buffer is valid for its length; KEYCTL_DESCRIBE writes at most that much.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
        )
    })? as usize;
    // "type;uid;gid;permissions in hex;description"
    let mut permissions = 0u32;
    let field = text[..length.min(text.len())]
        .split(|b| *b == b';')
        .nth(3)
        .unwrap_or(b"");
    for digit in field {
        let value = (*digit as char).to_digit(16).ok_or(Errno::INVAL)?;
        permissions = (permissions << 4) | value;
    }
    // SAFETY: plain integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_SETPERM,
            serial,
            permissions | KEY_USR_SEARCH,
        )
    })
    .map(drop)
}
