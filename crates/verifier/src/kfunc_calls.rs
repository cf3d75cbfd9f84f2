//! Calls of kernel functions, as they are first seen: the function exists, its prototype can be called, and the program
//! may call kernel functions at all. What a call does with its arguments is judged when a path reaches it.
//!
//! Kernel counterpart: `add_kfunc_call`. Neighbours: `subprogs` (finds the calls), `check::call::kfunc`.

use alloc::collections::BTreeSet;

use ring3_btf::{Btf, FuncModel, Kind, TypeId};
use ring3_isa::RawInsn;
use ring3_spec::{FdObject, LoadRequest};
use ring3_uapi::flags::prog_load;
use ring3_uapi::{Errno, ProgType};

use crate::error::{Check, Violation, reject};

/// Different kernel functions of one program. Source: `MAX_KFUNC_DESCS`.
const KFUNCS_MAX: usize = 256;
/// Different modules whose functions one program calls. Source: `MAX_KFUNC_BTFS`.
const KFUNC_BTFS_MAX: usize = 256;

/// Functions that ask a network device for metadata, and so need a program bound to one.
const DEVICE_KFUNCS: &[&str] = &[
    "bpf_xdp_metadata_rx_timestamp",
    "bpf_xdp_metadata_rx_hash",
    "bpf_xdp_metadata_rx_vlan_tag",
];

/// Kernel functions seen so far.
pub(crate) struct KfuncCalls<'a> {
    req: &'a LoadRequest,
    /// Id and index of the BTF in fd_array.
    seen: BTreeSet<(i32, i16)>,
    btf_idx_seen: BTreeSet<i16>,
}

/// The BTF that the `off` of a call of a kernel function names, if it names one.
pub(crate) fn btf_of(req: &LoadRequest, off: i16) -> Option<&Btf> {
    if off == 0 {
        return req.kernel_btf.as_ref();
    }
    let fd = req.fd_array.as_ref()?.get(usize::try_from(off).ok()?)?;
    match req.fds.get(fd)? {
        FdObject::Btf(btf) => Some(btf),
        FdObject::Map(_) | FdObject::Other => None,
    }
}

/// The modules whose functions the program calls.
pub(crate) fn module_btfs(req: &LoadRequest) -> impl Iterator<Item = &Btf> {
    req.insns
        .iter()
        .filter(|insn| crate::subprogs::is_kfunc_call(**insn) && insn.off != 0)
        .filter_map(|insn| btf_of(req, insn.off))
}

impl<'a> KfuncCalls<'a> {
    /// None seen.
    pub(crate) fn new(req: &'a LoadRequest) -> Self {
        KfuncCalls {
            req,
            seen: BTreeSet::new(),
            btf_idx_seen: BTreeSet::new(),
        }
    }

    /// Checks the function that a call names, if it was not called before.
    ///
    /// # Errors
    /// EINVAL, ENOTSUPP, EPROTO, EFAULT, E2BIG with the kernel's words.
    pub(crate) fn add(&mut self, insn: RawInsn) -> Check {
        if self.seen.is_empty() {
            if self.req.kernel_btf.is_none() {
                reject!(
                    ENOTSUPP,
                    "calling kernel function is not supported without CONFIG_DEBUG_INFO_BTF"
                );
            }
            // What a host application offers to its own program types is the host's to say.
            let is_host = matches!(self.req.prog_type, ProgType::Custom(_));
            if !is_host && !self.req.is_gpl_compatible() {
                reject!(
                    EINVAL,
                    "cannot call kernel function from non-GPL compatible program"
                );
            }
        }
        // A function that the loader did not find; an error only if the call is not dead code.
        if insn.imm == 0 && insn.off == 0 {
            return Ok(());
        }
        let Some(btf) = self.find_btf(insn.off)? else {
            reject!(EINVAL, "failed to find BTF for kernel function")
        };
        if self.seen.contains(&(insn.imm, insn.off)) {
            return Ok(());
        }
        if self.seen.len() >= KFUNCS_MAX {
            reject!(E2BIG, "too many different kernel function calls");
        }
        self.check_func(btf, insn.imm as u32)?;
        self.seen.insert((insn.imm, insn.off));
        Ok(())
    }

    fn find_btf(&mut self, idx: i16) -> Check<Option<&'a Btf>> {
        if idx == 0 {
            return Ok(self.req.kernel_btf.as_ref());
        }
        let failed = |errno, text: &str| {
            Err(Violation::new(errno, text.into())
                .and_line("failed to find BTF for kernel function"))
        };
        let Ok(at) = usize::try_from(idx) else {
            return failed(
                Errno::EINVAL,
                "negative offset disallowed for kernel module function call",
            );
        };
        if !self.btf_idx_seen.contains(&idx) && self.btf_idx_seen.len() >= KFUNC_BTFS_MAX {
            return failed(Errno::E2BIG, "too many different module BTFs");
        }
        let Some(fds) = &self.req.fd_array else {
            return failed(
                Errno::EPROTO,
                "kfunc offset > 0 without fd_array is invalid",
            );
        };
        let Some(fd) = fds.get(at) else {
            return Err(
                Violation::silent(Errno::EFAULT).and_line("failed to find BTF for kernel function")
            );
        };
        match self.req.fds.get(fd) {
            Some(FdObject::Btf(btf)) => {
                self.btf_idx_seen.insert(idx);
                Ok(Some(btf))
            }
            Some(FdObject::Map(_) | FdObject::Other) => {
                failed(Errno::EINVAL, "invalid module BTF fd specified")
            }
            None => failed(Errno::EBADF, "invalid module BTF fd specified"),
        }
    }

    fn check_func(&self, btf: &Btf, id: u32) -> Check {
        let Some(func) = btf
            .type_by_id(TypeId(id))
            .filter(|ty| ty.kind() == Kind::Func)
        else {
            reject!(EINVAL, "kernel btf_id {id} is not a function");
        };
        let Some(proto) = func
            .referent()
            .filter(|proto| proto.kind() == Kind::FuncProto)
        else {
            reject!(
                EINVAL,
                "kernel function btf_id {id} does not have a valid func_proto"
            );
        };
        if DEVICE_KFUNCS.contains(&func.name())
            && self.req.flags & prog_load::XDP_DEV_BOUND_ONLY == 0
        {
            reject!(EINVAL, "metadata kfuncs require device-bound program");
        }
        match FuncModel::from_proto(btf, proto.id(), func.name()) {
            Ok(_) => Ok(()),
            Err(error) => Err(Violation::new(error.errno(), error.message().into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use ring3_btf::Builder;

    fn request() -> LoadRequest {
        let mut builder = Builder::new();
        builder.add_int("int", 4, ring3_btf::IntEncoding::SIGNED);
        let mut req = LoadRequest::new(ProgType::Xdp, vec![]);
        req.kernel_btf = Btf::parse(&builder.finish()).ok();
        req
    }

    fn add(req: &LoadRequest, imm: i32, off: i16) -> Result<(), String> {
        KfuncCalls::new(req)
            .add(RawInsn::new(0x85, 0, 2, off, imm))
            .map_err(|violation| violation.text)
    }

    #[test]
    fn only_functions_are_called() {
        assert_eq!(
            add(&request(), 1, 0).unwrap_err(),
            "kernel btf_id 1 is not a function"
        );
        assert_eq!(
            add(&request(), 99, 0).unwrap_err(),
            "kernel btf_id 99 is not a function"
        );
    }

    #[test]
    fn a_missing_function_waits_for_dead_code_removal() {
        assert!(add(&request(), 0, 0).is_ok());
    }

    #[test]
    fn modules_come_from_fd_array() {
        assert_eq!(
            add(&request(), 1, 1).unwrap_err(),
            "kfunc offset > 0 without fd_array is invalid\nfailed to find BTF for kernel function"
        );
        let mut req = request();
        req.fd_array = Some(vec![]);
        assert_eq!(
            add(&req, 1, 1).unwrap_err(),
            "failed to find BTF for kernel function"
        );
    }

    #[test]
    fn programs_that_call_the_kernel_are_gpl() {
        let mut req = request();
        req.license = "MIT".into();
        assert_eq!(
            add(&req, 1, 0).unwrap_err(),
            "cannot call kernel function from non-GPL compatible program"
        );
    }
}
