//! `TypedMap`: a map with Rust types for key and value.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use crate::fd::NoFds;
use crate::map::{Access, Map};
use crate::{MapError, mem};

/// Plain old data: a type with a fixed size that is made from and into bytes. Arrays of plain data are plain.
pub trait Plain: Sized {
    /// Bytes of the type.
    const BYTES: usize;

    /// Writes the bytes; `out` is [`Plain::BYTES`] long.
    fn write_to(&self, out: &mut [u8]);

    /// Reads the bytes; `bytes` is [`Plain::BYTES`] long.
    fn read_from(bytes: &[u8]) -> Self;
}

macro_rules! plain_numbers {
    ($($number:ty),*) => {
        $(impl Plain for $number {
            const BYTES: usize = size_of::<$number>();

            fn write_to(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_ne_bytes());
            }

            fn read_from(bytes: &[u8]) -> Self {
                bytes.first_chunk().copied().map_or(0, <$number>::from_ne_bytes)
            }
        })*
    };
}

plain_numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl<T: Plain, const N: usize> Plain for [T; N] {
    const BYTES: usize = T::BYTES * N;

    fn write_to(&self, out: &mut [u8]) {
        for (item, chunk) in self.iter().zip(out.chunks_exact_mut(T::BYTES.max(1))) {
            item.write_to(chunk);
        }
    }

    fn read_from(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| T::read_from(&bytes[index * T::BYTES..(index + 1) * T::BYTES]))
    }
}

/// Bytes on the stack where they fit, so that small keys and values cost no allocation.
enum Buffer {
    Small([u8; SMALL_BYTES], usize),
    Large(Vec<u8>),
}

const SMALL_BYTES: usize = 64;

impl Buffer {
    fn zeroed(len_bytes: usize) -> Buffer {
        if len_bytes <= SMALL_BYTES {
            Buffer::Small([0; SMALL_BYTES], len_bytes)
        } else {
            Buffer::Large(vec![0; len_bytes])
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Small(bytes, len) => &bytes[..*len],
            Buffer::Large(bytes) => bytes,
        }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Small(bytes, len) => &mut bytes[..*len],
            Buffer::Large(bytes) => bytes,
        }
    }
}

fn bytes_of<T: Plain>(item: &T) -> Buffer {
    let mut bytes = Buffer::zeroed(T::BYTES);
    item.write_to(&mut bytes);
    bytes
}

/// A map seen through Rust types. For per-CPU maps, [`TypedMap::get_percpu`] and [`TypedMap::set_percpu`] have one value a CPU.
pub struct TypedMap<K, V> {
    map: Arc<Map>,
    _types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// A view of a map whose key and value sizes are those of the types.
    ///
    /// # Errors
    /// `EINVAL`: the sizes differ.
    pub fn new(map: Arc<Map>) -> Result<Self, MapError> {
        let attr = map.attr();
        attr.require(
            attr.key_size as usize == K::BYTES,
            "key_size",
            format_args!("{}, the key type has {}", attr.key_size, K::BYTES),
        )?;
        attr.require(
            attr.value_size as usize == V::BYTES,
            "value_size",
            format_args!("{}, the value type has {}", attr.value_size, V::BYTES),
        )?;
        Ok(TypedMap {
            map,
            _types: PhantomData,
        })
    }

    /// The map.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The value of a key, CPU 0's for per-CPU maps.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut value = Buffer::zeroed(self.map.sys_value_bytes());
        self.map
            .sys_lookup(Access::ReadWrite, &bytes_of(key), &mut value, 0)
            .ok()?;
        Some(V::read_from(value.get(..V::BYTES)?))
    }

    /// The values of a key, by CPU; one for plain maps.
    pub fn get_percpu(&self, key: &K) -> Option<Vec<V>> {
        let mut values = vec![0; self.map.sys_value_bytes()];
        self.map
            .sys_lookup(Access::ReadWrite, &bytes_of(key), &mut values, 0)
            .ok()?;
        let stride = if values.len() == V::BYTES {
            V::BYTES
        } else {
            mem::round_up_8(V::BYTES)
        };
        Some(
            values
                .chunks_exact(stride.max(1))
                .map(|chunk| V::read_from(&chunk[..V::BYTES]))
                .collect(),
        )
    }

    /// Creates or replaces an element; every CPU gets the value in a per-CPU map.
    ///
    /// # Errors
    /// `E2BIG`: full or beyond the end. `EPERM`: frozen.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), Errno> {
        self.update(key, value, map_elem::ANY)
    }

    /// As [`TypedMap::insert`] with `BPF_NOEXIST` or `BPF_EXIST`.
    ///
    /// # Errors
    /// Also `EEXIST` and `ENOENT`.
    pub fn update(&self, key: &K, value: &V, flags: u64) -> Result<(), Errno> {
        let total = self.map.sys_value_bytes();
        let one = bytes_of(value);
        let mut all = Buffer::zeroed(total);
        let stride = if total == V::BYTES {
            V::BYTES
        } else {
            mem::round_up_8(V::BYTES)
        };
        for chunk in all.chunks_exact_mut(stride.max(1)) {
            chunk[..V::BYTES].copy_from_slice(&one);
        }
        self.map
            .sys_update(Access::ReadWrite, &bytes_of(key), &all, flags, &NoFds)
    }

    /// Sets one value a CPU.
    ///
    /// # Errors
    /// `EINVAL`: not one value for each possible CPU. Else as [`TypedMap::insert`].
    pub fn set_percpu(&self, key: &K, values: &[V]) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        for value in values {
            let mut one = bytes_of(value).to_vec();
            one.resize(mem::round_up_8(V::BYTES), 0);
            bytes.extend_from_slice(&one);
        }
        self.map.sys_update(
            Access::ReadWrite,
            &bytes_of(key),
            &bytes,
            map_elem::ANY,
            &NoFds,
        )
    }

    /// Deletes an element.
    ///
    /// # Errors
    /// `ENOENT`: not there. `EINVAL`: elements of this type cannot be deleted.
    pub fn remove(&self, key: &K) -> Result<(), Errno> {
        self.map
            .sys_delete(Access::ReadWrite, &bytes_of(key), &NoFds)
    }

    /// All keys, in the order of `BPF_MAP_GET_NEXT_KEY`.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys {
            view: self,
            last: None,
            seen: 0,
        }
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + '_ {
        self.keys().filter_map(|key| {
            let value = self.get(&key)?;
            Some((key, value))
        })
    }
}

/// Iterates over keys; ends even if others insert and delete all the time.
pub struct Keys<'view, K, V> {
    view: &'view TypedMap<K, V>,
    last: Option<Vec<u8>>,
    seen: u64,
}

impl<K: Plain, V: Plain> Iterator for Keys<'_, K, V> {
    type Item = K;

    fn next(&mut self) -> Option<K> {
        // A deleted key restarts the kernel's walk; nobody wants to walk for ever.
        if self.seen > 2 * u64::from(self.view.map.max_entries()) {
            return None;
        }
        let mut next = vec![0; K::BYTES];
        self.view
            .map
            .sys_next_key(Access::ReadWrite, self.last.as_deref(), &mut next)
            .ok()?;
        self.seen += 1;
        let key = K::read_from(&next);
        self.last = Some(next);
        Some(key)
    }
}

impl<K: Plain + fmt::Debug, V: Plain + fmt::Debug> fmt::Debug for TypedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
