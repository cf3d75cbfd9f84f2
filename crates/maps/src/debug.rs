//! `MapDebug`: a map's elements as text, by the types that it was created with.

use std::fmt;

use ring3_btf::{Btf, TypeId, ValueText};

use crate::map::{Access, Map};
use crate::mem;

impl Map {
    /// All elements as text, by the key and value types of the map's creation; `btf` is what their ids are of. What has no type is shown as bytes.
    ///
    /// ```
    /// use ring3_btf::{Btf, Builder, IntEncoding, TypeId};
    /// use ring3_maps::{Map, MapAttr, MapType, TypedMap};
    ///
    /// let mut builder = Builder::new();
    /// let int = builder.add_int("int", 4, IntEncoding::SIGNED);
    /// let pair = builder.add_struct("pair", 8, &[("a", int, 0), ("b", int, 32)]);
    /// let btf = Btf::parse(&builder.finish()).unwrap();
    /// let mut attr = MapAttr::new(MapType::Hash, 4, 8, 10);
    /// (attr.btf_key_type_id, attr.btf_value_type_id) = (int.0, pair.0);
    /// let pairs = TypedMap::<i32, [i32; 2]>::new(Map::create(&attr)?)?;
    /// pairs.insert(&7, &[1, -1])?;
    /// assert_eq!(format!("{:?}", pairs.map().debug(&btf)), r#"{7: {"a": 1, "b": -1}}"#);
    /// # Ok::<(), ring3_maps::MapError>(())
    /// ```
    pub fn debug<'a>(&'a self, btf: &'a Btf) -> MapDebug<'a> {
        MapDebug { map: self, btf }
    }
}

/// Shows a map's elements: [`Map::debug`].
pub struct MapDebug<'a> {
    map: &'a Map,
    btf: &'a Btf,
}

impl fmt::Debug for MapDebug<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attr = self.map.attr();
        let mut out = f.debug_map();
        let mut last: Option<Vec<u8>> = None;
        let mut value = vec![0; self.map.sys_value_bytes()];
        // A deleted key restarts the walk; nobody wants to walk for ever.
        for _ in 0..=2 * u64::from(attr.max_entries) {
            let mut key = vec![0; attr.key_size as usize];
            let next = self
                .map
                .sys_next_key(Access::ReadWrite, last.as_deref(), &mut key);
            if next.is_err() {
                break;
            }
            let shown_key = self.text(attr.btf_key_type_id, &key);
            match self.map.sys_lookup(Access::ReadWrite, &key, &mut value, 0) {
                Ok(()) => out.entry(&shown_key, &self.value(&value)),
                Err(errno) => out.entry(&shown_key, &format_args!("<{errno}>")),
            };
            last = Some(key);
        }
        out.finish()
    }
}

impl MapDebug<'_> {
    fn text<'b>(&'b self, type_id: u32, bytes: &'b [u8]) -> Text<'b> {
        Text {
            btf: self.btf,
            type_id,
            bytes,
        }
    }

    /// One value, or a list with one a CPU.
    fn value<'b>(&'b self, bytes: &'b [u8]) -> Values<'b> {
        let attr = self.map.attr();
        let one = attr.value_size as usize;
        let stride = if bytes.len() > one {
            mem::round_up_8(one)
        } else {
            bytes.len()
        };
        let values = bytes
            .chunks(stride.max(1))
            .map(|chunk| self.text(attr.btf_value_type_id, &chunk[..one.min(chunk.len())]))
            .collect();
        Values(values)
    }
}

struct Values<'a>(Vec<Text<'a>>);

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => one.fmt(f),
            many => f.debug_list().entries(many).finish(),
        }
    }
}

/// Bytes by type, or as they are.
struct Text<'a> {
    btf: &'a Btf,
    type_id: u32,
    bytes: &'a [u8],
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.type_id == 0 {
            return write!(f, "{:02x?}", self.bytes);
        }
        write!(
            f,
            "{}",
            ValueText::new(self.btf, TypeId(self.type_id), self.bytes)
        )
    }
}
