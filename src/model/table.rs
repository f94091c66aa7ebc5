//! Tables as TOML has them. What serde derives for a struct takes a list as well, and fills its fields by their order. And
//! lists that say something.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// Tables of a file by their names, in the order of those; none twice.
pub type Tables<T> = Vec<(Spanned<String>, T)>;

/// Reads named tables as they come: the parser has sorted them, and finds what is there twice.
pub(super) fn tables<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Tables<T>>, D::Error> {
    struct Visit<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
        type Value = Tables<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of tables")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tables<T>, A::Error> {
            let mut tables = Vec::with_capacity(map.size_hint().unwrap_or_default());
            while let Some(table) = map.next_entry()? {
                tables.push(table);
            }
            Ok(tables)
        }
    }
    deserializer.deserialize_map(Visit(PhantomData)).map(Some)
}

/// What is said of a list that says nothing.
pub(super) const EMPTY: &str = "an empty list";

/// Reads a list that has something in it: nothing could mean nothing at all, or as much as no list.
pub(super) fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() { Err(D::Error::custom(EMPTY)) } else { Ok(list) }
}

/// The same of one that need not be there.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    some(deserializer).map(Some)
}

/// Structs that are tables and nothing else: serde derives what reads their keys (`remote = "Self"`).
macro_rules! only_tables {
    ($($table:ident),*) => {$(
        impl<'de> serde::Deserialize<'de> for $table {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visit;

                impl<'de> serde::de::Visitor<'de> for Visit {
                    type Value = $table;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a table")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$table, A::Error> {
                        $table::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(Visit)
            }
        }
    )*};
}
pub(super) use only_tables;
