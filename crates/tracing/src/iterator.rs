//! Links of iterators: programs that write a text about every map, program or link of the system, or every element of a map. The text is made at each
//! [`ring3_objects::LinkObject::iterate`].
//!
//! # Source
//! Documentation/bpf/bpf_iterators.rst; offsets are those of the BTF that the program was loaded with.

use std::sync::{Arc, Weak};

use ring3_btf::Btf;
use ring3_helpers::iterator::{IterRun, KernelObject, check_map};
use ring3_objects::{
    Error, Iteration, LinkDetail, LinkObject, LinkOps, MapObject, Program, System,
};
use ring3_runtime::ProgObject;
use ring3_uapi::{Errno, LinkType};

use crate::{Tracing, attach::refuse};

/// What can be gone over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Maps,
    Programs,
    Links,
    Elements,
}

const NAMES: &[(&str, Over)] = &[
    ("bpf_map", Over::Maps),
    ("bpf_prog", Over::Programs),
    ("bpf_link", Over::Links),
    ("bpf_map_elem", Over::Elements),
];

struct IterLink {
    system: Weak<System>,
    name: &'static str,
    over: Over,
    /// For elements. The link is a user of it.
    map: Option<Arc<MapObject>>,
}

impl Drop for IterLink {
    fn drop(&mut self) {
        if let Some(map) = &self.map {
            map.map().user_ref_put();
        }
    }
}

impl Tracing {
    /// Makes a link of an iterator's program (BPF_LINK_CREATE of `BPF_TRACE_ITER`); `map` is what the elements are of, for programs over elements.
    ///
    /// # Errors
    /// EINVAL: another program, or a map whose elements are not walked. EBADF: a program over elements without a map. EACCES: it reaches beyond keys or
    /// values. ENOTSUPP: an iterator over what is not modelled (tasks, sockets, ...).
    pub fn link_iterator(
        &self,
        prog: &Arc<Program>,
        map: Option<&Arc<MapObject>>,
    ) -> Result<Arc<LinkObject>, Error> {
        let target = prog
            .iterates()
            .ok_or_else(|| refuse(prog, Errno::EINVAL, "is not loaded for an iterator"))?;
        let known = NAMES.iter().find(|(known, _)| *known == target.name);
        let Some(&(name, over)) = known else {
            let what = format!(
                "iterator '{}': nothing of this kind is modelled",
                target.name
            );
            return Err(refuse(prog, Errno::ENOTSUPP, &what));
        };
        let map = match (over, map) {
            (Over::Elements, Some(map)) => {
                check_map(&**prog, map.map()).map_err(|errno| {
                    let what = format!(
                        "does not fit the elements of map '{}'",
                        map.map().attr().name
                    );
                    refuse(prog, errno, &what)
                })?;
                map.map().user_ref_get();
                Some(Arc::clone(map))
            }
            (Over::Elements, None) => {
                return Err(refuse(
                    prog,
                    Errno::EBADF,
                    "goes over the elements of a map",
                ));
            }
            _ => None,
        };
        let ops = Arc::new(IterLink {
            system: Arc::downgrade(&self.system),
            name,
            over,
            map,
        });
        LinkObject::create(&self.system, LinkType::Iter, prog, ops, |_| Ok(()))
    }
}

impl IterLink {
    fn show_all(&self, run: &mut IterRun<'_>, btf: &Btf) -> Result<(), Errno> {
        let system = self.system.upgrade().ok_or(Errno::ENOENT)?;
        let after = |next: fn(&System, u32) -> Option<u32>| {
            let system = Arc::clone(&system);
            let mut last = 0;
            std::iter::from_fn(move || {
                last = next(&system, last)?;
                Some(last)
            })
        };
        match self.over {
            Over::Maps => {
                for map in after(System::next_map_id).filter_map(|id| system.map_by_id(id)) {
                    run.map(Some(map.map()))?;
                }
                run.map(None)
            }
            Over::Programs => {
                for prog in after(System::next_program_id).filter_map(|id| system.program_by_id(id))
                {
                    run.object(self.name, Some(&program(btf, &prog)))?;
                }
                run.object(self.name, None)
            }
            Over::Links => {
                for link in after(System::next_link_id).filter_map(|id| system.link_by_id(id)) {
                    let object = KernelObject::new(btf, self.name)
                        .with("id", &link.id().to_ne_bytes())
                        .with("type", &link.link_type().raw().to_ne_bytes())
                        .pointing("prog", program(btf, &link.program()));
                    run.object(self.name, Some(&object))?;
                }
                run.object(self.name, None)
            }
            Over::Elements => run.elements(self.map.as_ref().ok_or(Errno::EINVAL)?.map()),
        }
    }
}

/// `struct bpf_prog` with its `bpf_prog_aux`.
fn program(btf: &Btf, prog: &Program) -> KernelObject {
    let mut name = [0; 16];
    for (byte, own) in name.iter_mut().zip(prog.attr().name.bytes().take(15)) {
        *byte = own;
    }
    let verified = prog.verified();
    let aux = KernelObject::new(btf, "bpf_prog_aux")
        .with("id", &prog.id().to_ne_bytes())
        .with("name", &name)
        .with("attach_btf_id", &prog.attr().attach_btf_id.0.to_ne_bytes())
        .with("max_ctx_offset", &verified.max_ctx_offset.to_ne_bytes())
        .with("max_pkt_offset", &verified.max_pkt_offset.to_ne_bytes())
        .with(
            "verified_insns",
            &verified.stats.insns_processed.to_ne_bytes(),
        );
    KernelObject::new(btf, "bpf_prog")
        .with("type", &prog.prog_type().raw().to_ne_bytes())
        .with(
            "expected_attach_type",
            &prog.attr().expected_attach_type.to_ne_bytes(),
        )
        .with("len", &(verified.insns.len() as u32).to_ne_bytes())
        .with("tag", &prog.tag())
        .pointing("aux", aux)
}

impl LinkOps for IterLink {
    fn update(&self, link: u32, _from: &Arc<Program>, _to: &Arc<Program>) -> Result<(), Error> {
        Err(Error::new(
            Errno::ENOTSUPP,
            format!("link {link}: iterators keep the program they were made for"),
        ))
    }

    fn detach(&self, _link: u32, _prog: &Arc<Program>) {}

    fn info(&self) -> LinkDetail {
        LinkDetail::Iter {
            name: self.name.to_owned(),
            map_id: self.map.as_ref().map_or(0, |map| map.id()),
        }
    }

    fn iterate(&self, prog: &Arc<Program>) -> Option<Iteration> {
        let start = || {
            let target = prog.iterates().ok_or(Errno::EINVAL)?;
            Ok((IterRun::new(&**prog)?, target.btf))
        };
        let (mut run, btf) = match start() {
            Ok(started) => started,
            Err(errno) => {
                return Some(Iteration {
                    text: Vec::new(),
                    error: Some(errno),
                });
            }
        };
        let error = self.show_all(&mut run, &btf).err();
        Some(Iteration {
            text: run.into_text(),
            error,
        })
    }

    fn is_fixed(&self) -> bool {
        true
    }
}
