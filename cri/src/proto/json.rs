//! Requests as JSON (protobuf.dev, "ProtoJSON", with the definition's own names), as kubelets were recorded: for tests.
//!
//! Driven by the definition itself, so that every message can be read; a name that is not in it is an error.

use std::collections::HashMap;

use base64::Engine as _;
use prost::Message;
use serde_json::Value;

/// A message from its JSON. The name is that of the definition, as `PodSandboxConfig`.
pub fn read<M: Message + Default>(name: &str, value: &Value) -> M {
    let schema = Schema::new(include_str!("../../proto/api.proto"));
    let bytes = schema.message(name, value);
    M::decode(bytes.as_slice()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

struct Field<'a> {
    kind: Kind<'a>,
    number: u64,
}

enum Kind<'a> {
    One(&'a str),
    Many(&'a str),
    Map(&'a str, &'a str),
}

/// Fields of messages, and values of enumerations, by name; nested ones by their own name alone.
struct Schema<'a> {
    messages: HashMap<&'a str, HashMap<&'a str, Field<'a>>>,
    enums: HashMap<&'a str, HashMap<&'a str, u64>>,
}

impl<'a> Schema<'a> {
    fn new(definition: &'a str) -> Self {
        let mut schema = Self {
            messages: HashMap::new(),
            enums: HashMap::new(),
        };
        // Names of the blocks around a line; the definition has one field on each.
        let mut around: Vec<(&str, &str)> = Vec::new();
        for line in definition.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [kind @ ("message" | "enum" | "service" | "oneof"), name, ..] => {
                    let name = name.trim_end_matches('{');
                    match kind {
                        "message" => _ = schema.messages.entry(name).or_default(),
                        "enum" => _ = schema.enums.entry(name).or_default(),
                        _ => {}
                    }
                    if !line.ends_with('}') {
                        around.push((kind, name));
                    }
                }
                ["}", ..] | ["};", ..] => _ = around.pop(),
                _ => {
                    let Some((left, right)) = line.split_once('=') else {
                        continue;
                    };
                    let Some(number) = right
                        .split([';', '['])
                        .next()
                        .and_then(|number| number.trim().parse::<u64>().ok())
                    else {
                        continue;
                    };
                    schema.entry(&around, left, number);
                }
            }
        }
        schema
    }

    fn entry(&mut self, around: &[(&str, &'a str)], left: &'a str, number: u64) {
        let message = around.iter().rev().find(|(kind, _)| *kind == "message");
        match (around.last(), message) {
            (Some(("enum", name)), _) => {
                let values = self.enums.entry(name).or_default();
                values.insert(left.trim(), number);
            }
            (Some(_), Some((_, message))) => {
                let (kind, name) = left.trim().rsplit_once(' ').unwrap_or_default();
                let kind = kind.trim();
                let map = kind
                    .strip_prefix("map<")
                    .and_then(|kind| kind.strip_suffix('>'));
                let kind = match (map.and_then(|map| map.split_once(',')), kind) {
                    (Some((key, value)), _) => Kind::Map(key.trim(), value.trim()),
                    (None, kind) => match kind.strip_prefix("repeated ") {
                        Some(kind) => Kind::Many(kind.trim()),
                        None => Kind::One(kind),
                    },
                };
                let fields = self.messages.entry(message).or_default();
                fields.insert(name, Field { kind, number });
            }
            _ => {}
        }
    }

    fn message(&self, name: &str, value: &Value) -> Vec<u8> {
        let fields = self.messages.get(name);
        let fields = fields.unwrap_or_else(|| panic!("no message {name}"));
        let object = value.as_object();
        let object = object.unwrap_or_else(|| panic!("{name}: {value} is no object"));
        let mut bytes = Vec::new();
        for (key, value) in object {
            let field = fields.get(key.as_str());
            let field = field.unwrap_or_else(|| panic!("{name} has no field {key}"));
            match (&field.kind, value) {
                (Kind::Many(kind), Value::Array(list)) => {
                    for one in list {
                        self.field(kind, field.number, one, &mut bytes);
                    }
                }
                (Kind::Map(from, to), Value::Object(map)) => {
                    for (key, value) in map {
                        let mut entry = Vec::new();
                        self.field(from, 1, &Value::String(key.clone()), &mut entry);
                        self.field(to, 2, value, &mut entry);
                        delimited(field.number, &entry, &mut bytes);
                    }
                }
                (Kind::One(kind), value) => self.field(kind, field.number, value, &mut bytes),
                _ => panic!("{name}.{key}: {value}"),
            }
        }
        bytes
    }

    fn field(&self, kind: &str, number: u64, value: &Value, bytes: &mut Vec<u8>) {
        match (kind, value) {
            ("string", Value::String(text)) => delimited(number, text.as_bytes(), bytes),
            ("bytes", Value::String(text)) => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(text);
                delimited(number, &decoded.expect("base64"), bytes);
            }
            ("bool", Value::Bool(truth)) => scalar(number, u64::from(*truth), bytes),
            ("int32" | "int64" | "uint32" | "uint64", value) => {
                let text = match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let signed = text.parse::<i64>().map(i64::cast_unsigned);
                let number_of = signed.or_else(|_| text.parse::<u64>());
                scalar(number, number_of.expect("a whole number"), bytes);
            }
            (kind, value) => match (self.enums.get(kind), value) {
                (Some(values), Value::String(name)) => {
                    let found = values.get(name.as_str()).copied();
                    scalar(number, found.expect("a value of the enumeration"), bytes);
                }
                _ => delimited(number, &self.message(kind, value), bytes),
            },
        }
    }
}

fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn scalar(number: u64, value: u64, bytes: &mut Vec<u8>) {
    varint(number << 3, bytes);
    varint(value, bytes);
}

fn delimited(number: u64, value: &[u8], bytes: &mut Vec<u8>) {
    varint(number << 3 | 2, bytes);
    varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::v1;

    #[test]
    fn messages_of_all_kinds_of_fields() {
        let value = json!({
            "metadata": {"name": "a", "attempt": 3},
            "command": ["x", "y"],
            "envs": [{"key": "K", "value": "VsOkbA=="}],
            "labels": {"l": "1"},
            "tty": true,
            "stop_signal": "SIGNAL_SIGUSR1",
            "linux": {"resources": {"oom_score_adj": "-997", "hugepage_limits": [{"page_size": "2MB", "limit": "18446744073709551615"}]},
                      "security_context": {"seccomp": {"profile_type": "Localhost"}, "supplemental_groups": ["7", 8]}},
        });
        let found: v1::ContainerConfig = read("ContainerConfig", &value);
        assert_eq!(found.metadata.unwrap().attempt, 3);
        assert_eq!(found.command, ["x", "y"]);
        assert_eq!(found.envs[0].value, "V\u{e4}l".as_bytes());
        assert_eq!(found.labels["l"], "1");
        assert!(found.tty);
        assert_eq!(found.stop_signal, v1::Signal::Sigusr1 as i32);
        let linux = found.linux.unwrap();
        let resources = linux.resources.unwrap();
        assert_eq!(resources.oom_score_adj, -997);
        assert_eq!(resources.hugepage_limits[0].limit, u64::MAX);
        let security = linux.security_context.unwrap();
        assert_eq!(security.seccomp.unwrap().profile_type, 2);
        assert_eq!(security.supplemental_groups, [7, 8]);
    }

    #[test]
    #[should_panic(expected = "has no field shiny")]
    fn names_that_are_not_in_the_definition() {
        let _: v1::ContainerConfig = read("ContainerConfig", &json!({"shiny": 1}));
    }
}
