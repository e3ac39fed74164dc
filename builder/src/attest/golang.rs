//! What Go writes into the programs that it builds: its version, and the modules that they are made of
//! (`debug/buildinfo`, Go 1.18 and later). Pure: the bytes of the program come from a function.
//!
//! Programs of an image are anything but trusted: each length is checked against a limit before it is
//! read.

use super::sbom::Package;

/// The section that has it.
const SECTION: &[u8] = b".go.buildinfo";
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The strings stand right behind the header, and not somewhere that it points to.
const INLINE: u8 = 2;
const HEADER: usize = 32;
/// Marks around the modules.
const MARK: usize = 16;

/// Sections of a program.
const SECTIONS: u64 = 4096;
/// The names of all sections.
const NAMES: u64 = 1 << 20;
/// The section itself.
const INFO: u64 = 4 << 20;
/// Modules of one program.
const MODULES: usize = 100_000;

/// Reads from a program: so many bytes from this offset, or nothing if there are fewer.
pub type ReadAt<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

/// What a program says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is not Go's.
    Nothing,
    /// It is, but says it in a way that is not read.
    Unread,
    /// Its modules, with Go itself.
    Modules(Vec<Package>),
}

/// What a program of this path says.
pub fn told(read: ReadAt<'_>, file: &str) -> Told {
    let Some((offset, size)) = section(read) else {
        return Told::Nothing;
    };
    let Some(bytes) = usize::try_from(size.min(INFO))
        .ok()
        .and_then(|size| read(offset, size))
    else {
        return Told::Nothing;
    };
    if !bytes.starts_with(MAGIC) || bytes.len() < HEADER {
        return Told::Nothing;
    }
    if bytes[MAGIC.len() + 1] & INLINE == 0 {
        return Told::Unread;
    }
    let mut rest = &bytes[HEADER..];
    let strings = string(&mut rest).and_then(|version| Some((version, string(&mut rest)?)));
    let Some((version, modules)) = strings else {
        return Told::Unread;
    };
    let inside = modules.len().saturating_sub(MARK);
    let text = modules.get(MARK..inside).unwrap_or_default();
    let mut all = packages(&String::from_utf8_lossy(text), file);
    let version = String::from_utf8_lossy(version);
    // "go1.22.1 X:experiment"
    let version = version.split(' ').next().unwrap_or_default();
    if let Some(number) = version.strip_prefix("go") {
        all.insert(0, package("stdlib", number, file));
    }
    Told::Modules(all)
}

fn package(name: &str, version: &str, file: &str) -> Package {
    Package {
        kind: "golang",
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: None,
        source: None,
        file: file.to_owned(),
    }
}

/// Lines `mod PATH VERSION [SUM]`, `dep ..`, and `=> ..` for what replaces the one before.
fn packages(text: &str, file: &str) -> Vec<Package> {
    let mut all: Vec<Package> = Vec::new();
    for line in text.lines().take(MODULES) {
        let mut fields = line.split('\t');
        let (kind, name, version) = (fields.next(), fields.next(), fields.next());
        let (Some(kind), Some(name)) = (kind, name.filter(|name| !name.is_empty())) else {
            continue;
        };
        // What is built where it was written has no version: "(devel)".
        let version = version.filter(|version| !version.starts_with('('));
        let one = package(name, version.unwrap_or_default(), file);
        match kind {
            "mod" | "dep" => all.push(one),
            "=>" => {
                all.pop();
                all.push(one);
            }
            _ => {}
        }
    }
    all
}

/// A string with its length in front (`encoding/binary`, `Uvarint`).
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0_u64;
    for (index, byte) in rest.iter().take(9).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let length = usize::try_from(length).ok()?;
            let (text, after) = rest[index + 1..].split_at_checked(length)?;
            *rest = after;
            return Some(text);
        }
    }
    None
}

/// Numbers of a program in its own order and width.
struct Layout {
    wide: bool,
    big: bool,
}

impl Layout {
    fn number(&self, bytes: &[u8], at: usize, width: usize) -> Option<u64> {
        let bytes = bytes.get(at..at + width)?;
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(match self.big {
            true => bytes.iter().fold(0, fold),
            false => bytes.iter().rev().fold(0, fold),
        })
    }

    /// One of two places, by width; an address or offset.
    fn address(&self, bytes: &[u8], wide: usize, narrow: usize) -> Option<u64> {
        match self.wide {
            true => self.number(bytes, wide, 8),
            false => self.number(bytes, narrow, 4),
        }
    }
}

/// Offset and size of the section in an ELF file.
fn section(read: ReadAt<'_>) -> Option<(u64, u64)> {
    let first = read(0, 52)?;
    if !first.starts_with(b"\x7fELF") {
        return None;
    }
    let layout = Layout {
        wide: first[4] == 2,
        big: first[5] == 2,
    };
    let header = match layout.wide {
        true => read(0, 64)?,
        false => first,
    };
    let table = layout.address(&header, 40, 32)?;
    let (size_at, count_at, names_at) = match layout.wide {
        true => (58, 60, 62),
        false => (46, 48, 50),
    };
    let size = layout.number(&header, size_at, 2)?;
    let count = layout.number(&header, count_at, 2)?.min(SECTIONS);
    let names = layout.number(&header, names_at, 2)?;
    let least = if layout.wide { 64 } else { 40 };
    if size < least || names >= count {
        return None;
    }
    let length = usize::try_from(size).ok()?;
    let entry = |index: u64| -> Option<Vec<u8>> {
        read(table.checked_add(index.checked_mul(size)?)?, length)
    };
    let place = |entry: &[u8]| -> Option<(u64, u64)> {
        Some((
            layout.address(entry, 24, 16)?,
            layout.address(entry, 32, 20)?,
        ))
    };
    let (offset, size) = place(&entry(names)?)?;
    if size > NAMES {
        return None;
    }
    let names = read(offset, usize::try_from(size).ok()?)?;
    for index in 0..count {
        let entry = entry(index)?;
        let name = usize::try_from(layout.number(&entry, 0, 4)?).ok()?;
        let name = names.get(name..).unwrap_or_default();
        if name.split(|byte| *byte == 0).next() == Some(SECTION) {
            return place(&entry);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of this width and order with one section.
    fn program(wide: bool, big: bool, info: &[u8]) -> Vec<u8> {
        let number = |value: usize, width: usize| -> Vec<u8> {
            let bytes = value.to_be_bytes();
            let mut bytes = bytes[8 - width..].to_vec();
            if !big {
                bytes.reverse();
            }
            bytes
        };
        let address = if wide { 8 } else { 4 };
        let (head, size) = if wide { (64, 64) } else { (52, 40) };
        let names = [b"\0.shstrtab\0", SECTION, b"\0"].concat();
        let (names_at, info_at) = (head, head + names.len());
        let table = info_at + info.len();
        let mut file = vec![
            0x7f,
            b'E',
            b'L',
            b'F',
            1 + u8::from(wide),
            1 + u8::from(big),
            1,
        ];
        file.resize(16, 0);
        for (value, width) in [(2, 2), (62, 2), (1, 4), (0, address), (0, address)] {
            file.extend(number(value, width));
        }
        file.extend(number(table, address));
        for (value, width) in [(0, 4), (head, 2), (0, 2), (0, 2), (size, 2), (3, 2), (1, 2)] {
            file.extend(number(value, width));
        }
        assert_eq!(file.len(), head);
        file.extend(&names);
        file.extend(info);
        for (name, offset, length) in [
            (0, 0, 0),
            (1, names_at, names.len()),
            (11, info_at, info.len()),
        ] {
            let start = file.len();
            for (value, width) in [
                (name, 4),
                (1, 4),
                (0, address),
                (0, address),
                (offset, address),
                (length, address),
            ] {
                file.extend(number(value, width));
            }
            file.resize(start + size, 0);
        }
        file
    }

    fn info(flags: u8, version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, flags]].concat();
        bytes.resize(HEADER, 0);
        let marked = format!("{0}{modules}{0}", "m".repeat(MARK));
        for text in [version, &marked] {
            let mut length = text.len();
            while length > 0x7f {
                bytes.push(0x80 | (length & 0x7f) as u8);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(text.bytes());
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Told {
        let read = |offset: u64, length: usize| {
            let start = usize::try_from(offset).ok()?;
            bytes
                .get(start..start.checked_add(length)?)
                .map(<[u8]>::to_vec)
        };
        told(&read, "bin/x")
    }

    const TEXT: &str = "path\tx/cmd\nmod\tx\t(devel)\t\ndep\tgithub.com/a/b\tv1.2.3\th1:abc=\n\
        dep\tgithub.com/old\tv1.0.0\n=>\tgithub.com/new\tv2.0.0\th1:def=\nbuild\t-compiler=gc\n";

    #[test]
    fn programs_of_all_kinds() {
        for (wide, big) in [(true, false), (true, true), (false, false), (false, true)] {
            let Told::Modules(all) = of(&program(wide, big, &info(2, "go1.22.1 X:x", TEXT))) else {
                panic!("{wide} {big}");
            };
            let names: Vec<_> = all
                .iter()
                .map(|one| (one.name.as_str(), one.version.as_str()))
                .collect();
            let expected = [
                ("stdlib", "1.22.1"),
                ("x", ""),
                ("github.com/a/b", "v1.2.3"),
                ("github.com/new", "v2.0.0"),
            ];
            assert_eq!(names, expected);
        }
        assert_eq!(of(&program(true, false, &info(0, "", ""))), Told::Unread);
        assert_eq!(of(&program(true, false, b"other")), Told::Nothing);
        assert_eq!(of(b"#!/bin/sh"), Told::Nothing);
        assert_eq!(of(b""), Told::Nothing);
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_no_panic() {
        let whole = program(true, false, &info(2, "go1.22.1", TEXT));
        for at in 0..whole.len() {
            let _ = of(&whole[..at]);
            for value in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = of(&changed);
            }
        }
    }
}
