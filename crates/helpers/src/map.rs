//! Map helpers: the functions of `ring3_maps::abi` behind their ids. Linking prefers a map's monomorphic functions where the map is known.

use ring3_maps::abi;
use ring3_uapi::FuncId;

use crate::Row;

/// `ring3_maps::abi` states the ABI of these itself; here they get their ids.
pub(crate) const ROWS: &[Row] = &[
    Row {
        id: FuncId::MapLookupElem,
        code: abi::lookup_elem,
    },
    Row {
        id: FuncId::MapUpdateElem,
        code: abi::update_elem,
    },
    Row {
        id: FuncId::MapDeleteElem,
        code: abi::delete_elem,
    },
    Row {
        id: FuncId::MapPushElem,
        code: abi::push_elem,
    },
    Row {
        id: FuncId::MapPopElem,
        code: abi::pop_elem,
    },
    Row {
        id: FuncId::MapPeekElem,
        code: abi::peek_elem,
    },
    Row {
        id: FuncId::MapLookupPercpuElem,
        code: abi::lookup_percpu_elem,
    },
];
