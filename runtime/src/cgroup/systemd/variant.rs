//! Values of `org.systemd.property.*` annotations: GVariant text format, and which properties an
//! annotation may set. Pure.
//!
//! Annotations reach the runtime from images and pods. A property that runs programs, opens devices
//! or moves the unit would turn them into commands to PID 1, so only those listed here are taken.

use super::message::Value;
use crate::error::{Error, Result};

/// Resource, life-cycle and ordering settings that a scope may have; systemd.scope(5),
/// systemd.resource-control(5), systemd.kill(5).
const ALLOWED: &[&str] = &[
    "AddRef",
    "After",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "Before",
    "BindsTo",
    "BlockIOWeight",
    "CPUQuotaPerSecUSec",
    "CPUQuotaPeriodUSec",
    "CPUShares",
    "CPUWeight",
    "CollectMode",
    "Conflicts",
    "CoredumpReceive",
    "DefaultDependencies",
    "DefaultMemoryLow",
    "DefaultMemoryMin",
    "DefaultStartupMemoryLow",
    "Description",
    "DisableControllers",
    "Documentation",
    "FinalKillSignal",
    "IOAccounting",
    "IOReadBandwidthMax",
    "IOReadIOPSMax",
    "IOWeight",
    "IOWriteBandwidthMax",
    "IOWriteIOPSMax",
    "IPAccounting",
    "IPAddressAllow",
    "IPAddressDeny",
    "KillMode",
    "KillSignal",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference",
    "ManagedOOMSwap",
    "MemoryHigh",
    "MemoryLimit",
    "MemoryLow",
    "MemoryMax",
    "MemoryMin",
    "MemorySwapMax",
    "MemoryZSwapMax",
    "OOMPolicy",
    "PartOf",
    "Requires",
    "Requisite",
    "RestartKillSignal",
    "RuntimeMaxUSec",
    "RuntimeRandomizedExtraUSec",
    "SendSIGHUP",
    "SendSIGKILL",
    "StartupCPUWeight",
    "StartupIOWeight",
    "StopWhenUnneeded",
    "TasksMax",
    "TimeoutStopUSec",
    "Wants",
    "WatchdogSignal",
];

const PREFIX: &str = "org.systemd.property.";

/// The property name of an annotation, `None` for other annotations.
pub(super) fn property_name(annotation: &str) -> Option<&str> {
    annotation.strip_prefix(PREFIX)
}

/// The property that an annotation sets.
pub(super) fn property(name: &str, text: &str) -> Result<(String, Value)> {
    let bad = |why: String| Error::invalid(format!("annotation {PREFIX}{name}={text}: {why}"));
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(bad(
            "name incorrect: it is too short or holds a non-alphabetic character".into(),
        ));
    }
    let value = parse(text).map_err(|why| bad(format!("value parse error: {why}")))?;
    // Documented as TimeoutStopSec=, on the bus TimeoutStopUSec.
    let seconds = name
        .strip_suffix("Sec")
        .filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    let (name, value) = match seconds {
        Some(stem) => {
            let value =
                microseconds(&value).ok_or_else(|| bad("not a number of seconds".into()))?;
            (format!("{stem}USec"), value)
        }
        None => (name.to_owned(), value),
    };
    if ALLOWED.binary_search(&name.as_str()).is_err() {
        return Err(bad("this property cannot be set by an annotation".into()));
    }
    Ok((name, value))
}

fn microseconds(value: &Value) -> Option<Value> {
    const M: u64 = 1_000_000;
    let whole = match *value {
        Value::Byte(v) => u64::from(v),
        Value::I16(v) => u64::try_from(v).ok()?,
        Value::U16(v) => u64::from(v),
        Value::I32(v) => u64::try_from(v).ok()?,
        Value::U32(v) => u64::from(v),
        Value::I64(v) => u64::try_from(v).ok()?,
        Value::U64(v) => v,
        Value::Double(v) if v >= 0.0 => return Some(Value::U64((v * M as f64) as u64)),
        _ => return None,
    };
    Some(Value::U64(whole.checked_mul(M)?))
}

type Parsed<T> = std::result::Result<T, String>;

/// Parses text as `uint64 5`, `'text'`, `true`, `['a', 'b']`, `@as []`, `(1, 'x')`.
pub(super) fn parse(text: &str) -> Parsed<Value> {
    let mut parser = Parser {
        rest: text.trim_start(),
        depth: 0,
    };
    let value = parser.value(None)?;
    if !parser.rest.is_empty() {
        return Err(format!("unexpected {:?}", parser.rest));
    }
    Ok(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn skip(&mut self, n: usize) {
        self.rest = self.rest[n..].trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest.starts_with(c);
        if found {
            self.skip(c.len_utf8());
        }
        found
    }

    /// A word up to a character that ends one.
    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",]):'\"[(".contains(c));
        let word = &self.rest[..end.unwrap_or(self.rest.len())];
        self.skip(word.len());
        word
    }

    fn value(&mut self, wanted: Option<&str>) -> Parsed<Value> {
        self.depth += 1;
        if self.depth > 16 {
            return Err("nested too deeply".into());
        }
        let value = match self.rest.chars().next() {
            None => return Err("it ends early".into()),
            Some('@') => {
                self.rest = &self.rest[1..];
                let signature = self.annotated_type()?;
                self.value(Some(&signature))?
            }
            Some('[') => self.array(wanted)?,
            Some('(') => self.tuple()?,
            Some(quote @ ('\'' | '"')) => {
                let text = self.quoted(quote)?;
                match wanted {
                    None | Some("s") => Value::String(text),
                    Some("o") => Value::Path(text),
                    Some("g") => Value::Signature(text),
                    Some(other) => return Err(format!("text where {other} is wanted")),
                }
            }
            Some(_) => self.scalar(wanted)?,
        };
        self.depth -= 1;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != value.signature()) {
            return Err(format!("{} where {wanted} is wanted", value.signature()));
        }
        Ok(value)
    }

    fn annotated_type(&mut self) -> Parsed<String> {
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        let signature = &self.rest[..end];
        let known = |c: char| "ybnqiuxtdsoga()".contains(c);
        if signature.is_empty() || !signature.chars().all(known) {
            return Err(format!("unknown type {signature:?}"));
        }
        self.skip(end);
        Ok(signature.to_owned())
    }

    fn array(&mut self, wanted: Option<&str>) -> Parsed<Value> {
        self.skip(1);
        let mut element = wanted
            .and_then(|wanted| wanted.strip_prefix('a'))
            .map(str::to_owned);
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("a missing comma".into());
            }
            let value = self.value(element.as_deref())?;
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        match element {
            Some(element) => Ok(Value::Array(element, values)),
            None => Err("an empty array without a type".into()),
        }
    }

    fn tuple(&mut self) -> Parsed<Value> {
        self.skip(1);
        let mut fields = Vec::new();
        while !self.eat(')') {
            if !fields.is_empty() && !self.eat(',') {
                return Err("a missing comma".into());
            }
            if !self.rest.starts_with(')') {
                fields.push(self.value(None)?);
            }
        }
        if fields.is_empty() {
            Err("an empty tuple".into())
        } else {
            Ok(Value::Struct(fields))
        }
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.skip(at + 1);
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"'))) => text.push(c),
                    other => return Err(format!("unknown escape {other:?}")),
                },
                '\0' => return Err("a null character".into()),
                c => text.push(c),
            }
        }
        Err("a string without end".into())
    }

    fn scalar(&mut self, wanted: Option<&str>) -> Parsed<Value> {
        const TYPES: [(&str, &str); 12] = [
            ("boolean", "b"),
            ("byte", "y"),
            ("int16", "n"),
            ("uint16", "q"),
            ("int32", "i"),
            ("uint32", "u"),
            ("int64", "x"),
            ("uint64", "t"),
            ("double", "d"),
            ("string", "s"),
            ("objectpath", "o"),
            ("signature", "g"),
        ];
        let word = self.word();
        if let Some((_, signature)) = TYPES.iter().find(|(name, _)| *name == word) {
            return self.value(Some(signature));
        }
        let number = |signature: &str| -> Option<Value> {
            Some(match signature {
                "b" => Value::Bool(word.parse().ok()?),
                "y" => Value::Byte(integer(word)?),
                "n" => Value::I16(integer(word)?),
                "q" => Value::U16(integer(word)?),
                "i" => Value::I32(integer(word)?),
                "u" => Value::U32(integer(word)?),
                "x" => Value::I64(integer(word)?),
                "t" => Value::U64(integer(word)?),
                "d" => Value::Double(word.parse().ok().filter(|v: &f64| v.is_finite())?),
                _ => return None,
            })
        };
        let found = match wanted {
            Some(signature) => number(signature),
            None => number("b").or_else(|| number("i")).or_else(|| {
                // A whole number that is too long is a mistake, not a fraction.
                number("d").filter(|_| word.contains(['.', 'e', 'E']))
            }),
        };
        found.ok_or_else(|| format!("{word:?} is no value of type {}", wanted.unwrap_or("any")))
    }
}

/// Decimal, or hexadecimal after `0x`.
fn integer<T: TryFrom<i128>>(word: &str) -> Option<T> {
    let value = match word.strip_prefix("0x") {
        Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
        None => word.parse().ok()?,
    };
    T::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(ALLOWED.is_sorted());
    }

    #[test]
    fn values() {
        for (text, want) in [
            ("uint64 123456789", Value::U64(123_456_789)),
            ("'inactive-or-failed'", Value::string("inactive-or-failed")),
            ("\"a\\\"b\"", Value::string("a\"b")),
            ("true", Value::Bool(true)),
            ("5", Value::I32(5)),
            ("-5", Value::I32(-5)),
            ("1.5", Value::Double(1.5)),
            ("byte 0x7f", Value::Byte(0x7f)),
            ("@t 7", Value::U64(7)),
            ("['a', 'b']", Value::strings(["a", "b"])),
            ("@as []", Value::Array("s".into(), vec![])),
            (
                "[uint32 1, 2]",
                Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)]),
            ),
            (
                "('a', true)",
                Value::Struct(vec![Value::string("a"), Value::Bool(true)]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for bad in [
            "",
            "'a",
            "uint64 -1",
            "byte 256",
            "[]",
            "[1 2]",
            "['a', 5]",
            "()",
            "foo",
            "5 6",
            "'a' x",
            "@z 5",
            "@as",
            "uint64 'a'",
            "99999999999999999999999",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"[".repeat(1000)).is_err());
    }

    #[test]
    fn properties() {
        let row = |name: &str, text: &str| property(name, text).map_err(|e| e.chain().to_string());
        assert_eq!(
            row("RuntimeMaxSec", "2").unwrap(),
            ("RuntimeMaxUSec".into(), Value::U64(2_000_000))
        );
        assert_eq!(row("TimeoutStopUSec", "uint64 9").unwrap().1, Value::U64(9));
        assert_eq!(row("TimeoutStopSec", "0.5").unwrap().1, Value::U64(500_000));
        for (name, text, why) in [
            (
                "ExecStartPre",
                "'/bin/sh'",
                "cannot be set by an annotation",
            ),
            (
                "DeviceAllow",
                "[('/dev/sda', 'rw')]",
                "cannot be set by an annotation",
            ),
            ("PIDs", "[uint32 1]", "cannot be set by an annotation"),
            ("KillModeX", "'none'", "cannot be set by an annotation"),
            ("X", "1", "name incorrect"),
            ("Kill-Mode", "'none'", "name incorrect"),
            ("KillMode", "none", "value parse error"),
            ("TimeoutStopSec", "'5'", "not a number"),
            ("TimeoutStopSec", "-5", "not a number"),
        ] {
            let error = row(name, text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
