//! Programs written as text, with one array of words to write what they see to.

use std::sync::Arc;

use ring3_btf::Kind;
use ring3_isa::{NoNames, parse_asm};
use ring3_maps::{Access, MapAttr};
use ring3_objects::{LoadError, MapObject, ProgAttr, Program, System};
use ring3_trampoline::{Certainty, HostFunction, Site};
use ring3_uapi::{AttachType, MapType, ProgType};

/// Words of the array; the program finds its address in r6.
pub(crate) const WORDS: usize = 16;

/// A program and what it wrote.
pub(crate) struct Watcher {
    pub(crate) map: Arc<MapObject>,
    pub(crate) prog: Arc<Program>,
}

impl Watcher {
    pub(crate) fn saw(&self) -> [u64; WORDS] {
        let mut value = [0; 8 * WORDS];
        let map = self.map.map();
        map.sys_lookup(Access::ReadOnly, &[0; 4], &mut value, 0)
            .unwrap();
        std::array::from_fn(|word| {
            u64::from_ne_bytes(value[8 * word..8 * word + 8].try_into().unwrap())
        })
    }
}

/// Loads a program; `target` is a function, or a tracepoint for `tp_btf`.
pub(crate) fn try_load(
    system: &Arc<System>,
    attach_type: AttachType,
    target: &str,
    text: &str,
) -> Result<Watcher, Box<LoadError>> {
    let attr = MapAttr::new(MapType::Array, 4, 8 * WORDS as u32, 1);
    let map = MapObject::create(system, &attr, None, None).unwrap();
    let text = format!("r6 = map[0]+0 ll\n{text}");
    let mut attr = ProgAttr::new(ProgType::Tracing, parse_asm(&text, &NoNames).unwrap().insns);
    attr.expected_attach_type = attach_type.raw();
    attr.maps.insert(0, Arc::clone(&map));
    let btf = system.kernel_btf().unwrap();
    let kind = match attach_type {
        AttachType::TraceRawTp => Kind::Typedef,
        _ => Kind::Func,
    };
    attr.attach_btf_id = btf.find_by_name_kind(target, kind).unwrap();
    let prog = Program::load(system, attr)?;
    Ok(Watcher { map, prog })
}

pub(crate) fn load(
    system: &Arc<System>,
    attach_type: AttachType,
    target: &str,
    text: &str,
) -> Watcher {
    try_load(system, attach_type, target, text)
        .unwrap_or_else(|error| panic!("{error}\n{}", error.log))
}

/// A function declared by `traceable`.
pub(crate) fn function(code: *const (), prototype: &str, certainty: Certainty) -> HostFunction {
    // SAFETY: tests pass functions made by `traceable`, and their prototypes where they say that they are certain.
    unsafe { HostFunction::new(Site::of_stub(code).unwrap(), prototype, certainty).unwrap() }
}
