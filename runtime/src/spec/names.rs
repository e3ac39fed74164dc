//! Property names as Go reads them: the exact one first, else the one equal but for case.
//!
//! runc and the engines are written in Go, whose `encoding/json` knows `"CPU"` for `"cpu"`; what it
//! takes for a limit must not be passed over here. [`parse`] reads a document in this way: each
//! structure says which fields it has ([`Deserializer::deserialize_struct`]), so there is no table
//! of names, and maps of free names (annotations, sysctl) keep theirs. Enumerations are values,
//! not names, and are read exactly. A structure written as a list, which serde would read, is
//! refused. Two spellings of one property are an error here; `super::document` joins them.

use std::fmt::{Formatter, Result as Fmt};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    Visitor,
};

/// The fields of a structure.
pub(super) type Fields = &'static [&'static str];

/// Reads a document, whose names need not have the right case.
pub(super) fn parse<T: DeserializeOwned>(raw: &[u8]) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(raw);
    let value = T::deserialize(Names(&mut json))?;
    json.end()?;
    Ok(value)
}

/// The field that a key means: the same one, else one that differs in case only.
pub(super) fn field(fields: Fields, key: &str) -> Option<&'static str> {
    position(fields, key, 0).map(|at| fields[at])
}

/// Whether Go takes a key for this name.
///
/// Unicode folds two letters that are not ASCII to ones that are: the long s and the Kelvin sign.
pub(super) fn same(name: &str, key: &str) -> bool {
    let fold = |letter: char| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

/// Documents tend to have the order of the fields, so that the search begins at the expected one.
fn position(fields: Fields, key: &str, expected: usize) -> Option<usize> {
    let (before, after) = fields.split_at(expected.min(fields.len()));
    let exact = |part: Fields| part.iter().position(|field| *field == key);
    let folded = || fields.iter().position(|field| same(field, key));
    exact(after)
        .map(|at| before.len() + at)
        .or_else(|| exact(before))
        .or_else(folded)
}

/// A deserialiser, a visitor, or an access that hands on names as the types have them.
struct Names<T>(T);

/// Forwards what has no names inside.
macro_rules! forward {
    ($($method:ident($($argument:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V)
            -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* visitor)
        }
    )*};
}

/// Forwards what may have names inside.
macro_rules! wrap {
    ($($method:ident($($argument:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V)
            -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Names(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Names<D> {
    type Error = D::Error;

    forward! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str()
        deserialize_string() deserialize_bytes() deserialize_byte_buf() deserialize_unit()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str)
        deserialize_enum(name: &'static str, variants: Fields)
    }

    wrap! {
        deserialize_option() deserialize_seq() deserialize_map() deserialize_tuple(len: usize)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple_struct(name: &'static str, len: usize)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_struct(name, fields, Structure { visitor, fields })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Names<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> Fmt {
        self.0.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Names(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Names(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Names(access))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Names(access))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(access)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Names<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Names(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Names<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Names(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Names<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Names(inner))
    }
}

/// The visitor of a structure, and its fields.
struct Structure<V> {
    visitor: V,
    fields: Fields,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Structure<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> Fmt {
        self.visitor.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Properties {
            access,
            fields: self.fields,
            expected: 0,
        })
    }
}

/// What an object has for a structure.
struct Properties<A> {
    access: A,
    fields: Fields,
    expected: usize,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Properties<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.access.next_key_seed(Key {
            seed,
            fields: self.fields,
            expected: &mut self.expected,
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.access.next_value_seed(Names(seed))
    }
}

/// Reads a key and hands on the field that it means, or itself if it means none.
struct Key<'a, S> {
    seed: S,
    fields: Fields,
    expected: &'a mut usize,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        inner.deserialize_identifier(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Key<'_, S> {
    type Value = S::Value;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> Fmt {
        formatter.write_str("the name of a property")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<S::Value, E> {
        let at = position(self.fields, key, *self.expected);
        let name = at.map_or(key, |at| self.fields[at]);
        *self.expected = at.map_or(*self.expected, |at| at + 1);
        self.seed.deserialize(StrDeserializer::new(name))
    }
}
