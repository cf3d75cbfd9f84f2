//! `BtfObject`: type information with an id, as BPF_BTF_LOAD makes it. Who uses it (a map, a program, a descriptor) holds it; the last
//! reference frees the id.

use std::sync::{Arc, Weak};

use ring3_btf::Btf;

use crate::System;

/// BTF of a [`System`].
pub struct BtfObject {
    id: u32,
    btf: Btf,
    kernel_name: Option<&'static str>,
    system: Weak<System>,
}

impl BtfObject {
    /// Gives BTF an id. It was checked before (`ring3_btf::check`).
    pub fn create(system: &Arc<System>, btf: Btf) -> Arc<BtfObject> {
        BtfObject::register(system, btf, None)
    }

    /// The same for BTF of the kernel (`vmlinux`) or a module, which has a name.
    pub fn create_kernel(system: &Arc<System>, btf: Btf, name: &'static str) -> Arc<BtfObject> {
        BtfObject::register(system, btf, Some(name))
    }

    fn register(
        system: &Arc<System>,
        btf: Btf,
        kernel_name: Option<&'static str>,
    ) -> Arc<BtfObject> {
        system.register_btf(|id, system| BtfObject {
            id,
            btf,
            kernel_name,
            system,
        })
    }

    /// Its name, if it is the kernel's.
    pub fn kernel_name(&self) -> Option<&'static str> {
        self.kernel_name
    }

    /// Id, from 1.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The types.
    pub fn btf(&self) -> &Btf {
        &self.btf
    }
}

impl Drop for BtfObject {
    fn drop(&mut self) {
        if let Some(system) = self.system.upgrade() {
            system.forget_btf(self.id);
        }
    }
}
