//! Map helpers: the functions of `ring3_maps::abi` behind their ids. Linking prefers a map's monomorphic functions where the map is known.

use ring3_maps::abi;
use ring3_spec::helpers as h;

use crate::Row;

/// `ring3_maps::abi` states the ABI of these itself; here they get their ids.
pub(crate) const ROWS: &[Row] = &[
    Row::of::<h::MapLookupElem>(abi::lookup_elem),
    Row::of::<h::MapUpdateElem>(abi::update_elem),
    Row::of::<h::MapDeleteElem>(abi::delete_elem),
    Row::of::<h::MapPushElem>(abi::push_elem),
    Row::of::<h::MapPopElem>(abi::pop_elem),
    Row::of::<h::MapPeekElem>(abi::peek_elem),
    Row::of::<h::MapLookupPercpuElem>(abi::lookup_percpu_elem),
];
