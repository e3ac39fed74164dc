//! The fields of a header, as all readers understand them.

use tar::Header;

use super::limits::PATH_BYTES;
use super::read::{Kind, wrong};
use crate::Result;

/// Both sums are in use: some old programs summed signed bytes.
pub(super) fn sum_is_right(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let Some(stored) = number(&bytes[148..156]) else {
        return false;
    };
    let fields = bytes[..148].iter().chain(&bytes[156..]);
    let unsigned: i128 = fields.clone().map(|byte| i128::from(*byte)).sum::<i128>() + 256;
    let signed: i128 = fields
        .map(|byte| i128::from(byte.cast_signed()))
        .sum::<i128>()
        + 256;
    stored == unsigned || stored == signed
}

/// A numeric field: octal digits, or base 256 as GNU tar and star write it.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    match field {
        [0x80, rest @ ..] => base_256(0, rest),
        [0xff, rest @ ..] => base_256(-1, rest),
        _ => octal(field),
    }
}

fn base_256(sign: i128, digits: &[u8]) -> Option<i128> {
    // Eleven digits at most: no overflow.
    (digits.len() < 16).then(|| {
        digits
            .iter()
            .fold(sign, |sum, digit| sum << 8 | i128::from(*digit))
    })
}

/// Blanks, digits, then blanks or NULs only; nothing but NULs is zero.
fn octal(field: &[u8]) -> Option<i128> {
    let blanks = field.iter().take_while(|byte| **byte == b' ').count();
    let field = &field[blanks..];
    let digits = field
        .iter()
        .take_while(|byte| matches!(byte, b'0'..=b'7'))
        .count();
    let tail = field[digits..].iter().all(|byte| matches!(byte, b' ' | 0));
    if !tail || (digits == 0 && (blanks > 0 || field.contains(&b' '))) {
        return None;
    }
    Some(
        field[..digits]
            .iter()
            .fold(0, |sum, digit| sum << 3 | i128::from(digit - b'0')),
    )
}

pub(super) fn size_field(header: &Header) -> Result<u64> {
    let size = number(&header.as_old().size).and_then(|size| i64::try_from(size).ok());
    match size.map(u64::try_from) {
        Some(Ok(size)) => Ok(size),
        _ => wrong("bad size"),
    }
}

pub(super) fn signed(field: &[u8]) -> Result<i64> {
    let value = number(field).and_then(|value| i64::try_from(value).ok());
    value.map_or_else(|| wrong("bad time"), Ok)
}

pub(super) fn mode(field: &[u8]) -> Result<u32> {
    // Old programs also store the type of the file here.
    let mode = number(field).and_then(|mode| u32::try_from(mode).ok());
    mode.map_or_else(|| wrong("bad mode"), |mode| Ok(mode & 0o7777))
}

/// The largest id means "do not change" to the kernel and can be nobody's.
pub(super) fn owner(id: Option<i128>) -> Result<u32> {
    match id.map(u32::try_from) {
        Some(Ok(id)) if id != u32::MAX => Ok(id),
        _ => wrong("bad owner or group"),
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

pub(super) fn header_path(header: &Header) -> Result<Box<[u8]>> {
    let bytes = header.as_bytes();
    let name = until_nul(&bytes[..100]);
    let field = &bytes[345..500];
    let prefix = match &bytes[257..265] {
        [b'u', b's', b't', b'a', b'r', 0, _, _] => until_nul(field),
        // GNU's own format has access and change time there. Python nevertheless takes them for
        // the beginning of the name; with numbers there is no doubt.
        b"ustar  \0" => {
            if number(&field[..12]).is_none() || number(&field[12..24]).is_none() {
                return wrong("a prefix of a name in GNU's own format");
            }
            &[]
        }
        // Readers disagree whether that could be something.
        _ if field.iter().any(|byte| *byte != 0) => {
            return wrong("a prefix of a name in a format without such");
        }
        _ => &[],
    };
    if prefix.is_empty() {
        return Ok(name.into());
    }
    Ok([prefix, b"/", name].concat().into())
}

pub(super) fn kind(header: &Header, raw: &[u8], long: Option<&[u8]>) -> Result<Kind> {
    let bytes = header.as_bytes();
    let slash = raw.ends_with(b"/");
    let link = || {
        let link = long.unwrap_or_else(|| until_nul(&bytes[157..257]));
        if link.is_empty() || link.len() > PATH_BYTES {
            return wrong("a link without a target, or with one longer than 4095 bytes");
        }
        Ok(link.into())
    };
    let device = || {
        let part = |field| number(field).and_then(|part| u32::try_from(part).ok());
        match (part(&bytes[329..337]), part(&bytes[337..345])) {
            // What dev_t of Linux can hold.
            (Some(major), Some(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
            _ => wrong("bad device number"),
        }
    };
    let kind = match bytes[156] {
        b'5' => return Ok(Kind::Directory),
        // Before there was a type for directories.
        0 if slash => return Ok(Kind::Directory),
        b'0' | 0 | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::Hardlink(link()?),
        b'2' => Kind::Symlink(link()?),
        b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
        b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
        b'6' => Kind::Fifo,
        other => return wrong(format_args!("unknown type {:?}", char::from(other))),
    };
    if slash {
        return wrong("only the name of a directory ends with a slash");
    }
    Ok(kind)
}
