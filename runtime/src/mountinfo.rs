//! How /proc/PID/mountinfo (proc_pid_mountinfo(5)) writes paths.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The path of a field: blanks, newlines and backslashes are three octal digits behind a backslash.
pub(crate) fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let value = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (field, expected) in [
            ("/a\\040b\\134c", "/a b\\c"),
            ("/t\\011n\\012", "/t\tn\n"),
            ("/plain\\x", "/plain\\x"),
            ("/end\\04", "/end\\04"),
        ] {
            assert_eq!(unescaped(field), std::path::Path::new(expected), "{field}");
        }
    }
}
