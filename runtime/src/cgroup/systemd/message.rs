//! D-Bus messages: encoding of calls, decoding of answers and signals. Pure.
//!
//! D-Bus specification, "Message Protocol": little endian, each type aligned to its size, structures
//! to 8. What is read comes from a privileged peer and is still checked at every step.

use crate::error::{Error, ErrorKind, Result};

/// Longest message that is taken; real ones have some hundred bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// Deepest nesting of containers, as in the specification.
const MAX_DEPTH: usize = 32;

/// A typed value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    String(String),
    Path(String),
    Signature(String),
    /// Signature of the elements, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn string(text: impl Into<String>) -> Self {
        Value::String(text.into())
    }

    pub(super) fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Value::Array("s".into(), texts.into_iter().map(Value::string).collect())
    }

    /// The type, as D-Bus writes it.
    pub(super) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::String(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                format!("({inner})")
            }
            Value::Variant(_) => "v".into(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        pad(out, alignment(&self.signature()));
        match self {
            Value::Byte(v) => out.push(*v),
            Value::Bool(v) => out.extend(u32::from(*v).to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::Double(v) => out.extend(v.to_le_bytes()),
            Value::String(v) | Value::Path(v) => {
                out.extend((v.len() as u32).to_le_bytes());
                out.extend(v.as_bytes());
                out.push(0);
            }
            Value::Signature(v) => {
                out.push(v.len() as u8);
                out.extend(v.as_bytes());
                out.push(0);
            }
            Value::Array(element, values) => {
                let at = out.len();
                out.extend([0; 4]);
                pad(out, alignment(element));
                let start = out.len();
                for value in values {
                    value.put(out);
                }
                let length = (out.len() - start) as u32;
                out[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => fields.iter().for_each(|field| field.put(out)),
            Value::Variant(value) => {
                Value::Signature(value.signature()).put(out);
                value.put(out);
            }
        }
    }
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message; for calls the caller fills in what is needed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) serial: u32,
    pub(super) reply_to: Option<u32>,
    pub(super) destination: Option<String>,
    pub(super) path: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) member: Option<String>,
    pub(super) error: Option<String>,
    pub(super) body: Vec<Value>,
}

impl Message {
    /// A method call.
    pub(super) fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Self {
        Self {
            kind: Kind::Call,
            serial: 0,
            reply_to: None,
            destination: Some(destination.to_owned()),
            path: Some(path.to_owned()),
            interface: Some(interface.to_owned()),
            member: Some(member.to_owned()),
            error: None,
            body,
        }
    }

    /// The bytes on the wire.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.body.iter().for_each(|value| value.put(&mut body));
        let signature: String = self.body.iter().map(Value::signature).collect();
        let text = |v: &Option<String>| v.clone().map(Value::String);
        let mut fields = Vec::new();
        for (code, value) in [
            (1, self.path.clone().map(Value::Path)),
            (2, text(&self.interface)),
            (3, text(&self.member)),
            (4, text(&self.error)),
            (5, self.reply_to.map(Value::U32)),
            (6, text(&self.destination)),
            (
                8,
                (!signature.is_empty()).then_some(Value::Signature(signature)),
            ),
        ] {
            if let Some(value) = value {
                fields.push(Value::Struct(vec![
                    Value::Byte(code),
                    Value::Variant(value.into()),
                ]));
            }
        }
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut out = vec![b'l', kind, 0, 1];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(self.serial.to_le_bytes());
        Value::Array("(yv)".into(), fields).put(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }

    /// Reads a whole message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader {
            bytes,
            at: 1,
            depth: 0,
        };
        let kind = match reader.byte()? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(broken("unknown kind")),
        };
        reader.at = 8;
        let mut message = Self {
            kind,
            serial: reader.u32()?,
            reply_to: None,
            destination: None,
            path: None,
            interface: None,
            member: None,
            error: None,
            body: Vec::new(),
        };
        let Value::Array(_, fields) = reader.value("a(yv)")? else {
            return Err(broken("no header fields"));
        };
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(pair) = field else { continue };
            let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else {
                continue;
            };
            match (code, value.as_ref()) {
                (1, Value::Path(v)) => message.path = Some(v.clone()),
                (2, Value::String(v)) => message.interface = Some(v.clone()),
                (3, Value::String(v)) => message.member = Some(v.clone()),
                (4, Value::String(v)) => message.error = Some(v.clone()),
                (5, Value::U32(v)) => message.reply_to = Some(*v),
                (6, Value::String(v)) => message.destination = Some(v.clone()),
                (8, Value::Signature(v)) => signature.clone_from(v),
                _ => {}
            }
        }
        reader.align(8)?;
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (first, more) = split(rest)?;
            message.body.push(reader.value(first)?);
            rest = more;
        }
        Ok(message)
    }
}

/// Length of the whole message, from its first 16 bytes.
pub(super) fn total_length(start: &[u8; 16]) -> Result<usize> {
    if start[0] != b'l' || start[3] != 1 {
        return Err(broken(
            "not of this machine's byte order, or of another version",
        ));
    }
    let number = |at: usize| {
        u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize
    };
    let (body, fields) = (number(4), number(12));
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(broken("too long"));
    }
    Ok((16 + fields).next_multiple_of(8) + body)
}

fn broken(why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cannot understand a D-Bus message: {why}"),
    )
}

/// Splits the first complete type off a signature.
fn split(signature: &str) -> Result<(&str, &str)> {
    let bytes = signature.as_bytes();
    let mut at = 0;
    while bytes.get(at) == Some(&b'a') {
        at += 1;
    }
    let mut depth = 0_usize;
    loop {
        match bytes.get(at) {
            Some(b'(' | b'{') => depth += 1,
            Some(b')' | b'}') => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| broken("bad signature"))?;
            }
            Some(_) => {}
            None => return Err(broken("bad signature")),
        }
        at += 1;
        if depth == 0 {
            return signature
                .split_at_checked(at)
                .ok_or_else(|| broken("bad signature"));
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let end = self
            .at
            .checked_add(n)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| broken("it ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = String::from_utf8(self.take(length)?.to_vec());
        self.take(1)?;
        text.map_err(|_| broken("text that is not UTF-8"))
    }

    fn value(&mut self, signature: &str) -> Result<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(broken("nested too deeply"));
        }
        let value = self.value_at(signature)?;
        self.depth -= 1;
        Ok(value)
    }

    fn value_at(&mut self, signature: &str) -> Result<Value> {
        let (code, inner) = signature
            .split_at_checked(1)
            .ok_or_else(|| broken("bad signature"))?;
        Ok(match code {
            "y" => Value::Byte(self.byte()?),
            "b" => Value::Bool(self.u32()? != 0),
            "n" => Value::I16(i16::from_le_bytes(self.array()?)),
            "q" => Value::U16(u16::from_le_bytes(self.array()?)),
            "i" => Value::I32(i32::from_le_bytes(self.array()?)),
            "u" | "h" => Value::U32(self.u32()?),
            "x" => Value::I64(i64::from_le_bytes(self.array()?)),
            "t" => Value::U64(u64::from_le_bytes(self.array()?)),
            "d" => Value::Double(f64::from_le_bytes(self.array()?)),
            "s" | "o" => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if code == "s" {
                    Value::String(text)
                } else {
                    Value::Path(text)
                }
            }
            "g" => {
                let length = usize::from(self.byte()?);
                Value::Signature(self.text(length)?)
            }
            "v" => {
                let length = usize::from(self.byte()?);
                let inner = self.text(length)?;
                if !split(&inner)?.1.is_empty() {
                    return Err(broken("a variant of several types"));
                }
                Value::Variant(Box::new(self.value(&inner)?))
            }
            "a" => {
                let length = self.u32()? as usize;
                self.align(alignment(inner))?;
                let end = self
                    .at
                    .checked_add(length)
                    .filter(|end| *end <= self.bytes.len());
                let end = end.ok_or_else(|| broken("it ends early"))?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(inner)?);
                }
                Value::Array(inner.to_owned(), values)
            }
            "(" | "{" => {
                self.align(8)?;
                let mut rest = &inner[..inner.len().saturating_sub(1)];
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (first, more) = split(rest)?;
                    fields.push(self.value(first)?);
                    rest = more;
                }
                if fields.is_empty() {
                    return Err(broken("an empty structure"));
                }
                Value::Struct(fields)
            }
            _ => return Err(broken("an unknown type")),
        })
    }
}

#[cfg(test)]
mod tests;
