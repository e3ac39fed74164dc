//! A whole document in memory, read into a type: first its names, then its values.
//!
//! [`rename`] gives each property the name that the type has for it (see `super::names`) and joins
//! what several spellings say; it goes by the structures only and takes no offence at a wrong
//! value, so that repairs can follow. [`read`] is strict, and tells the place of a problem. Both
//! are one deserialiser, for the code derived for a type is large.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::{Error, Map, Value, map};

use super::names::{Fields, field};

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Names the properties as the type does; returns those that several spellings set differently.
///
/// Fails, with the place, only where an object or a list stands for a text of certain contents.
pub(super) fn rename<T: DeserializeOwned>(value: &mut Value) -> Result<Vec<Vec<Step>>, Vec<Step>> {
    let walk = Walk {
        only_names: true,
        ..Walk::default()
    };
    match T::deserialize(Node::new(Some(value), &walk)) {
        Ok(_) => Ok(walk.conflicts.into_inner()),
        Err(_) => Err(walk.path.into_inner()),
    }
}

/// Reads the value; the problem comes with its place.
pub(super) fn read<T: DeserializeOwned>(value: &mut Value) -> Result<T, (Vec<Step>, String)> {
    let walk = Walk::default();
    let outcome = T::deserialize(Node::new(Some(value), &walk));
    outcome.map_err(|error| (walk.path.into_inner(), error.to_string()))
}

#[derive(Debug, Default)]
struct Walk {
    /// Values do not matter: each is read as the least one of the type.
    only_names: bool,
    /// Where we are, or where the problem was.
    path: RefCell<Vec<Step>>,
    conflicts: RefCell<Vec<Vec<Step>>>,
}

impl Walk {
    fn inside<'de, S: DeserializeSeed<'de>>(
        &self,
        step: Step,
        seed: S,
        value: Option<&'de mut Value>,
    ) -> Result<S::Value, Error> {
        self.path.borrow_mut().push(step);
        let found = seed.deserialize(Node::new(value, self))?;
        self.path.borrow_mut().pop();
        Ok(found)
    }

    fn rename(&self, object: &mut Map<String, Value>, fields: Fields) {
        let odd = |key: &&String| !fields.contains(&key.as_str()) && field(fields, key).is_some();
        let odd: Vec<String> = object.keys().filter(odd).cloned().collect();
        for key in odd {
            if let (Some(name), Some(value)) = (field(fields, &key), object.remove(&key)) {
                self.put(object, name, value);
            }
        }
    }

    /// Go reads the later spelling over the earlier; we do not know the order, but only a
    /// difference needs it.
    fn put(&self, object: &mut Map<String, Value>, name: &str, value: Value) {
        self.path.borrow_mut().push(Step::Key(name.to_owned()));
        match (object.get_mut(name), value) {
            (None | Some(Value::Null), value) => {
                object.insert(name.to_owned(), value);
            }
            (Some(Value::Object(present)), Value::Object(more)) => {
                for (key, value) in more {
                    self.put(present, &key, value);
                }
            }
            (Some(present), value) if value.is_null() || *present == value => {}
            _ => {
                let path = self.path.borrow().clone();
                self.conflicts.borrow_mut().push(path);
            }
        }
        self.path.borrow_mut().pop();
    }
}

/// A place in the document; it may be empty while only names matter.
struct Node<'de, 'w> {
    value: Option<&'de mut Value>,
    walk: &'w Walk,
}

impl<'de, 'w> Node<'de, 'w> {
    fn new(value: Option<&'de mut Value>, walk: &'w Walk) -> Self {
        Self { value, walk }
    }

    /// The value, where it matters.
    fn strict(self) -> Option<&'de Value> {
        self.value
            .filter(|_| !self.walk.only_names)
            .map(|value| &*value)
    }

    fn wrong_type(self, expected: &dyn Expected) -> Error {
        let unexpected = match self.value {
            None | Some(Value::Null) => Unexpected::Unit,
            Some(Value::Bool(value)) => Unexpected::Bool(*value),
            Some(Value::String(value)) => Unexpected::Str(value),
            Some(Value::Array(_)) => Unexpected::Seq,
            Some(Value::Object(_)) => Unexpected::Map,
            Some(Value::Number(number)) => {
                let signed = number.as_i64().map(Unexpected::Signed);
                let unsigned = number.as_u64().map(Unexpected::Unsigned);
                let other = Unexpected::Float(number.as_f64().unwrap_or_default());
                unsigned.or(signed).unwrap_or(other)
            }
        };
        Error::invalid_type(unexpected, expected)
    }
}

macro_rules! leaves {
    ($($method:ident => $visit:ident($least:expr))*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.strict() {
                Some(value) => value.$method(visitor),
                None => visitor.$visit($least),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Error;

    leaves! {
        deserialize_bool => visit_bool(false)
        deserialize_i8 => visit_i64(0)
        deserialize_i16 => visit_i64(0)
        deserialize_i32 => visit_i64(0)
        deserialize_i64 => visit_i64(0)
        deserialize_u8 => visit_u64(0)
        deserialize_u16 => visit_u64(0)
        deserialize_u32 => visit_u64(0)
        deserialize_u64 => visit_u64(0)
        deserialize_f64 => visit_f64(0.0)
        deserialize_str => visit_str("")
        deserialize_string => visit_str("")
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.strict() {
            Some(value) => value.deserialize_any(visitor),
            None => visitor.visit_unit(),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            None | Some(Value::Null) => visitor.visit_none(),
            Some(value) if self.walk.only_names && !has_names(value) => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let walk = self.walk;
        match self.value {
            Some(Value::Array(list)) => visitor.visit_seq(Elements::new(list, walk)),
            _ if walk.only_names => visitor.visit_seq(Elements::new(&mut [], walk)),
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let walk = self.walk;
        match self.value {
            Some(Value::Object(map)) => visitor.visit_map(Entries {
                scalars: !walk.only_names,
                ..Entries::new(Some(map), walk)
            }),
            _ if walk.only_names => visitor.visit_map(Entries::new(None, walk)),
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let walk = self.walk;
        let mut map = match self.value {
            Some(Value::Object(map)) => Some(map),
            _ if walk.only_names => None,
            _ => return Err(self.wrong_type(&visitor)),
        };
        let mut absent = Vec::new();
        if walk.only_names {
            if let Some(map) = &mut map {
                walk.rename(map, fields);
            }
            absent.extend_from_slice(fields);
            absent.retain(|field| map.as_ref().is_none_or(|map| !map.contains_key(*field)));
        }
        visitor.visit_map(Entries {
            absent,
            ..Entries::new(map, walk)
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: Fields,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.strict() {
            Some(value) => value.deserialize_enum(name, variants, visitor),
            None => visitor.visit_enum(StrDeserializer::new(
                variants.first().copied().unwrap_or_default(),
            )),
        }
    }
}

fn has_names(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

struct Elements<'de, 'w> {
    list: std::iter::Enumerate<std::slice::IterMut<'de, Value>>,
    walk: &'w Walk,
}

impl<'de, 'w> Elements<'de, 'w> {
    fn new(list: &'de mut [Value], walk: &'w Walk) -> Self {
        let list = list.iter_mut().enumerate();
        Self { list, walk }
    }
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let walk = self.walk;
        let wanted = |value: &Value| !walk.only_names || has_names(value);
        let next = self.list.find(|(_, value)| wanted(value));
        next.map(|(index, value)| walk.inside(Step::Index(index), seed, Some(value)))
            .transpose()
    }
}

struct Entries<'de, 'w> {
    present: Option<map::IterMut<'de>>,
    /// Whether values without names inside are read.
    scalars: bool,
    /// What a structure may insist on.
    absent: Vec<&'static str>,
    next: Option<(&'de str, Option<&'de mut Value>)>,
    walk: &'w Walk,
}

impl<'de, 'w> Entries<'de, 'w> {
    fn new(map: Option<&'de mut Map<String, Value>>, walk: &'w Walk) -> Self {
        Self {
            present: map.map(Map::iter_mut),
            scalars: true,
            absent: Vec::new(),
            next: None,
            walk,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let scalars = self.scalars;
        let present = self
            .present
            .as_mut()
            .and_then(|map| map.find(|(_, value)| scalars || has_names(value)));
        self.next = match present {
            Some((key, value)) => Some((key, Some(value))),
            None => self.absent.pop().map(|name| (name, None)),
        };
        self.next
            .as_ref()
            .map(|(key, _)| seed.deserialize(StrDeserializer::new(key)))
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.next.take().unwrap_or_default();
        self.walk.inside(Step::Key(key.to_owned()), seed, value)
    }
}
