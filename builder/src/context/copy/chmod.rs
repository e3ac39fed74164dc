//! `--chmod`: octal, or symbolic as chmod(1) of BSD has it, with a umask of zero.

use crate::{Error, Result};

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
const OTHERS: u32 = 0o7;
/// What `a` stands for.
const ALL: u32 = 0o6777;
/// Longest symbolic mode.
const TEXT_BYTES: usize = 1024;

/// A mode, or what becomes of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    change: Change,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Symbolic(Vec<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Add(u32),
    Remove(u32),
    /// To directories, and to what somebody may execute.
    AddIfExecutable(u32),
    /// The bits of one class to others.
    Copy {
        shift: u32,
        who: u32,
        clear: Clear,
        set: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clear {
    Nothing,
    Same,
    All,
}

impl Chmod {
    /// `644`, `u=rwX,go-w`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "invalid chmod parameter {text:?}: must be octal between 0 and 07777, or symbolic"
            ))
            .with_hint("write --chmod=644 or --chmod=u=rwX,go-w")
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let change = if digits && !text.is_empty() {
            let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
            if mode > 0o7777 {
                return Err(wrong());
            }
            Change::Octal(mode)
        } else {
            let long = text.len() > TEXT_BYTES;
            let steps = symbolic(text.as_bytes()).filter(|_| !long);
            Change::Symbolic(steps.ok_or_else(wrong)?)
        };
        let text = text.to_owned();
        Ok(Self { change, text })
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What a mode becomes.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let steps = match &self.change {
            Change::Octal(mode) => return *mode,
            Change::Symbolic(steps) => steps,
        };
        let executable = is_directory || mode & EXECUTE != 0;
        let mut new = mode & 0o7777;
        for step in steps {
            match *step {
                Step::Add(bits) => new |= bits,
                Step::Remove(bits) => new &= !bits,
                Step::AddIfExecutable(bits) if executable => new |= bits,
                Step::AddIfExecutable(_) => {}
                Step::Copy {
                    shift,
                    who,
                    clear,
                    set,
                } => {
                    let value = (new >> shift) & OTHERS;
                    let spread = |bits: u32| (bits * 0o111) & who;
                    match clear {
                        Clear::Nothing => {}
                        Clear::Same => new &= !spread(value),
                        Clear::All => new &= !spread(OTHERS),
                    }
                    if set {
                        new |= spread(value);
                    }
                }
            }
        }
        new
    }

    /// The mode of directories that have to be made above the destination, as BuildKit has it.
    pub(super) fn of_parents(&self) -> u32 {
        match self.change {
            Change::Octal(mode) => mode & 0o777,
            Change::Symbolic(_) => 0o755,
        }
    }
}

/// The clauses of a symbolic mode; none if it is malformed.
fn symbolic(mut text: &[u8]) -> Option<Vec<Step>> {
    if text.first()?.is_ascii_digit() {
        return None;
    }
    let mut steps = Vec::new();
    loop {
        let mut who = 0;
        loop {
            who |= match text.first()? {
                b'a' => ALL,
                b'u' => SET_USER | 0o700,
                b'g' => SET_GROUP | 0o070,
                b'o' => OTHERS,
                _ => break,
            };
            text = &text[1..];
        }
        loop {
            let operation = text[0];
            if !matches!(operation, b'+' | b'-' | b'=') {
                return None;
            }
            text = clause(operation, who, &text[1..], &mut steps);
            match text.first() {
                None => return Some(steps),
                Some(b',') => break,
                Some(_) => {}
            }
        }
        text = &text[1..];
    }
}

/// One operation with its permissions; what follows it.
fn clause<'a>(operation: u8, mut who: u32, mut text: &'a [u8], steps: &mut Vec<Step>) -> &'a [u8] {
    let (mut bits, mut if_executable, mut assigned) = (0, 0, false);
    let classes = who == 0 || who & !OTHERS != 0;
    loop {
        match text.first() {
            Some(b'r') => bits |= 0o444,
            Some(b'w') => bits |= 0o222,
            Some(b'x') => bits |= EXECUTE,
            Some(b'X') if operation == b'-' => bits |= EXECUTE,
            Some(b'X') => if_executable = EXECUTE,
            Some(b's') if classes => bits |= SET_USER | SET_GROUP,
            Some(b't') if classes => {
                who |= STICKY;
                bits |= STICKY;
            }
            Some(b's' | b't') => {}
            Some(class @ (b'u' | b'g' | b'o')) => {
                if bits != 0 {
                    change(operation, who, bits, steps);
                    bits = 0;
                }
                assigned |= operation == b'=';
                add_if(who, std::mem::take(&mut if_executable), steps);
                let shift = match class {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                };
                let who = if who == 0 { 0o777 } else { who & 0o777 };
                steps.push(Step::Copy {
                    shift,
                    who,
                    clear: match operation {
                        b'-' => Clear::Same,
                        b'=' => Clear::All,
                        _ => Clear::Nothing,
                    },
                    set: operation != b'-',
                });
            }
            _ => {
                if bits != 0 || operation == b'=' && !assigned {
                    change(operation, who, bits, steps);
                }
                add_if(who, if_executable, steps);
                return text;
            }
        }
        text = &text[1..];
    }
}

fn change(operation: u8, who: u32, bits: u32, steps: &mut Vec<Step>) {
    let meant = if who == 0 { !0 } else { who };
    match operation {
        b'-' => steps.push(Step::Remove(bits & meant)),
        b'+' => steps.push(Step::Add(bits & meant)),
        _ => {
            steps.push(Step::Remove(if who == 0 { ALL } else { who }));
            steps.push(Step::Add(bits & meant));
        }
    }
}

fn add_if(who: u32, bits: u32, steps: &mut Vec<Step>) {
    if bits != 0 {
        let meant = if who == 0 { !0 } else { who };
        steps.push(Step::AddIfExecutable(bits & meant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal() {
        for (text, mode) in [("0", 0), ("0644", 0o644), ("777", 0o777), ("4755", 0o4755)] {
            assert_eq!(Chmod::parse(text).unwrap().apply(0o123, false), mode);
        }
        assert_eq!(Chmod::parse("4770").unwrap().of_parents(), 0o770);
        assert_eq!(Chmod::parse("a+x").unwrap().of_parents(), 0o755);
    }

    #[test]
    fn symbolic() {
        for (text, mode, directory, expected) in [
            ("go-w", 0o666, false, 0o644),
            ("u=rw,g=r,o=r", 0o777, false, 0o644),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o644, true, 0o755),
            ("u=rwX,go-w", 0o666, false, 0o644),
            ("u=rwX,go-w", 0o666, true, 0o744),
            ("u+rw,g+r,o-x,o+w", 0o755, true, 0o756),
            ("=rw,+X", 0o755, false, 0o777),
            ("=rw,+X", 0o644, false, 0o666),
            ("go=", 0o777, false, 0o700),
            ("go=u", 0o640, false, 0o666),
            ("go=u-w", 0o755, false, 0o755),
            ("g-u", 0o674, false, 0o614),
            ("g+o", 0o604, false, 0o644),
            ("u+s,+t", 0o755, false, 0o5755),
            ("o+st", 0o755, false, 0o755),
            ("a=rx", 0o6777, false, 0o555),
            ("u-x+w", 0o500, false, 0o600),
            ("a-X", 0o755, false, 0o644),
            ("o=g", 0o751, false, 0o755),
        ] {
            let new = Chmod::parse(text).unwrap().apply(mode, directory);
            assert_eq!(new, expected, "{text} {mode:o}: {new:o}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "64a",
            "10000",
            "8",
            "u",
            "u+r,",
            "x",
            "+644",
            "0o644",
            "u+q",
            ",u+r",
            "99999999999",
        ] {
            let error = Chmod::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
