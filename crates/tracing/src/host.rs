//! Functions that the host offers: how they come into the kernel BTF, and what disagreement with it means.

use ring3_btf::{Btf, BtfError, Builder, Kind, TypeId};
use ring3_objects::Error;
use ring3_trampoline::HostFunction;
use ring3_uapi::Errno;

use crate::Tracing;

impl Tracing {
    /// Offers functions to programs, all or none. One that the kernel BTF describes already keeps that description; where it says something else than the
    /// function's prototype, programs on it see every argument as a u64, and may not follow pointers. Others are added to the BTF, so offer
    /// before a [`ring3_objects::BtfObject`] is made of it.
    ///
    /// # Errors
    /// EEXIST: a function of this name was offered before. ENOENT: no prototype, neither with the function nor in the BTF; or a type in it that
    /// the BTF does not have.
    pub fn offer(&self, functions: impl IntoIterator<Item = HostFunction>) -> Result<(), Error> {
        let mut known = self.functions.write();
        let old = match self.system.kernel_btf() {
            Some(btf) => btf,
            None => parse(&Builder::new())?,
        };
        let mut builder = Builder::extend(&old);
        let mut ids: Vec<(TypeId, HostFunction)> = Vec::new();
        for function in functions {
            let name = function.name();
            let id = match (
                old.find_by_name_kind(name, Kind::Func),
                function.prototype(),
            ) {
                (Some(id), _) => id,
                (None, Some(prototype)) => {
                    prototype.add_to(&old, &mut builder).map_err(from_btf)?
                }
                (None, None) => {
                    let message = format!("function '{name}': no prototype in the kernel BTF");
                    return Err(Error::new(Errno::ENOENT, message));
                }
            };
            let is_offered = ids.iter().any(|(_, other)| other.name() == name);
            if is_offered || known.contains_key(&id) {
                let message = format!("function '{name}' was offered before");
                return Err(Error::new(Errno::EEXIST, message));
            }
            ids.push((id, function));
        }
        let btf = match builder.next_id() == TypeId(old.type_count()) {
            true => old,
            false => parse(&builder)?,
        };
        for (id, function) in ids {
            let (target, traits) = function.into_target(&btf, id);
            self.system.set_target_traits(id, traits);
            known.insert(id, target);
        }
        self.system.set_kernel_btf(btf);
        Ok(())
    }
}

fn parse(builder: &Builder) -> Result<Btf, Error> {
    Btf::parse(&builder.finish()).map_err(from_btf)
}

fn from_btf(error: BtfError) -> Error {
    Error::new(error.errno(), error.message())
}
