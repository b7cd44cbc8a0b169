//! Lists, tables and names that say in an error how they are written.
//!
//! What serde derives takes an array for a table too, and its errors speak of sequences and variants.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

/// A table, and nothing else that could be read as one.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Table<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
            type Value = Table<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table, such as [dns]")
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Table<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries)).map(Table)
            }
        }

        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

/// A list whose elements know their place.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct List<T>(pub(super) Vec<Spanned<T>>);

impl<T> List<T> {
    /// A list that stands in no text.
    pub(super) fn unplaced(elements: impl IntoIterator<Item = T>) -> Self {
        Self(elements.into_iter().map(unplaced).collect())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list in square brackets")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// A number where a port is wanted; its range is checked with the rules.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct PortNumber(pub(super) i64);

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = PortNumber;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a port, 1 to 65535")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<PortNumber, E> {
                Ok(PortNumber(number))
            }
        }

        deserializer.deserialize_i64(PortVisitor)
    }
}

/// A value that stands in no text.
pub(super) fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
