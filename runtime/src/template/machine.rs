//! What is true of the machine and of this process, for whoever decides over containers.

use crate::error::{Context, Error, ErrorKind, Result};

/// Capabilities that this process may hand on: what it has, and what its children may have.
pub fn own_capabilities() -> Result<u64> {
    let text =
        std::fs::read_to_string("/proc/self/status").context(|| "cannot read /proc/self/status")?;
    let mask = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let both = mask("CapPrm:").zip(mask("CapBnd:"));
    let (permitted, bounding) = both.ok_or_else(|| {
        let text = "cannot find capabilities in /proc/self/status";
        Error::new(ErrorKind::Internal, text)
    })?;
    Ok(permitted & bounding)
}

/// Release of the kernel.
pub fn kernel() -> (u32, u32) {
    release(&rustix::system::uname().release().to_string_lossy())
}

fn release(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (text, expected) in [
            ("6.12.8-cloud", (6, 12)),
            ("5.10", (5, 10)),
            ("6", (6, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(release(text), expected, "{text}");
        }
    }
}
