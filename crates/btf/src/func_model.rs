//! `FuncModel`: sizes and signs of a function's arguments and return value, what a trampoline needs to know of it.
//!
//! Kernel counterpart: `btf_distill_func_proto`. Neighbour: `ring3-trampoline` turns a model into a frame.

use crate::{Btf, BtfError, Kind, TypeId};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// Most arguments of a traced function. Source: `MAX_BPF_FUNC_ARGS`.
pub const FUNC_ARGS_MAX: usize = 12;
/// Bytes of a struct passed by value.
const STRUCT_ARG_BYTES_MAX: u32 = 16;

/// One argument or return value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgModel {
    /// bytes, 0 for no return value
    pub size: u8,
    /// a struct passed by value
    pub is_struct: bool,
    /// a signed integer
    pub is_signed: bool,
}

impl ArgModel {
    /// An unsigned 64-bit value.
    pub const U64: ArgModel = ArgModel {
        size: 8,
        is_struct: false,
        is_signed: false,
    };
}

/// Arguments and return value of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncModel {
    /// the arguments
    pub args: Vec<ArgModel>,
    /// the return value
    pub ret: ArgModel,
}

impl FuncModel {
    /// What is assumed of a BPF function without usable BTF: five u64 arguments, a u64 result.
    pub fn untyped() -> FuncModel {
        FuncModel {
            args: vec![ArgModel::U64; 5],
            ret: ArgModel::U64,
        }
    }

    /// The model of a function prototype; `name` appears in messages.
    ///
    /// # Errors
    /// EINVAL with the kernel's log line: too many arguments, variable arguments, a type without a known size.
    pub fn from_proto(btf: &Btf, proto: TypeId, name: &str) -> Result<FuncModel, BtfError> {
        let fail = |message: String| Err(BtfError::new(Errno::EINVAL, message));
        let proto = match btf.type_by_id(proto) {
            Some(ty) if ty.kind() == Kind::FuncProto => ty,
            _ => return fail(format!("The function {name} has no prototype.")),
        };
        let count = proto.vlen() as usize;
        if count > FUNC_ARGS_MAX {
            return fail(format!(
                "The function {name} has {count} arguments. Too many."
            ));
        }
        let ret = match sized(btf, proto.type_id()) {
            Ok((ret, _)) if !ret.is_struct => ret,
            Ok((_, kind)) | Err(kind) => {
                return fail(format!(
                    "The function {name} return type {} is unsupported.",
                    kind.name()
                ));
            }
        };
        let mut args = Vec::with_capacity(count);
        for (index, param) in proto.params().enumerate() {
            if index + 1 == count && param.ty.is_void() {
                return fail(format!(
                    "The function {name} with variable args is unsupported."
                ));
            }
            let arg = match sized(btf, param.ty) {
                Ok((arg, _)) => arg,
                Err(kind) => {
                    return fail(format!(
                        "The function {name} arg{index} type {} is unsupported.",
                        kind.name()
                    ));
                }
            };
            if arg.size == 0 {
                return fail(format!("The function {name} has malformed void argument."));
            }
            args.push(arg);
        }
        Ok(FuncModel { args, ret })
    }

    /// 8-byte slots that the arguments take in the array that programs see.
    pub fn arg_slots(&self) -> usize {
        self.args
            .iter()
            .map(|arg| usize::from(arg.size).div_ceil(8))
            .sum()
    }
}

/// Size and flags of a type that can be passed, else its kind.
fn sized(btf: &Btf, id: TypeId) -> Result<(ArgModel, Kind), Kind> {
    if id.is_void() {
        return Ok((
            ArgModel {
                size: 0,
                is_struct: false,
                is_signed: false,
            },
            Kind::Void,
        ));
    }
    let ty = btf.stripped(id).ok_or(Kind::Void)?;
    let kind = ty.kind();
    let (bytes, max) = match kind {
        Kind::Ptr => (8, 8),
        Kind::Int | Kind::Enum | Kind::Enum64 | Kind::Struct => (ty.size(), STRUCT_ARG_BYTES_MAX),
        _ => return Err(kind),
    };
    if bytes > max {
        return Err(kind);
    }
    Ok((
        ArgModel {
            size: bytes as u8,
            is_struct: kind == Kind::Struct,
            is_signed: ty.int().is_some_and(|int| int.encoding.is_signed()),
        },
        kind,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, IntEncoding};

    #[test]
    fn models_ints_pointers_and_structs() {
        let mut b = Builder::new();
        let int = b.add_int("int", 4, IntEncoding::SIGNED);
        let u16 = b.add_int("unsigned short", 2, IntEncoding::NONE);
        let ptr = b.add_ref(Kind::Ptr, "", TypeId::VOID);
        let pair = b.add_struct("pair", 16, &[("a", ptr, 0), ("b", ptr, 64)]);
        let big = b.add_struct("big", 24, &[("a", ptr, 0), ("b", ptr, 64), ("c", ptr, 128)]);
        let good = b.add_func_proto(int, &[("a", u16), ("b", ptr), ("c", pair)]);
        let too_big = b.add_func_proto(int, &[("a", big)]);
        let varargs = b.add_func_proto(int, &[("a", int), ("", TypeId::VOID)]);
        let ret_struct = b.add_func_proto(pair, &[]);
        let btf = Btf::parse(&b.finish()).unwrap();
        let model = FuncModel::from_proto(&btf, good, "f").unwrap();
        assert_eq!(
            model.args.iter().map(|arg| arg.size).collect::<Vec<_>>(),
            [2, 8, 16]
        );
        assert!(model.ret.is_signed && model.args[2].is_struct && !model.args[0].is_signed);
        assert_eq!(model.arg_slots(), 4);
        for (proto, message) in [
            (too_big, "The function f arg0 type STRUCT is unsupported."),
            (varargs, "The function f with variable args is unsupported."),
            (
                ret_struct,
                "The function f return type STRUCT is unsupported.",
            ),
        ] {
            assert_eq!(
                FuncModel::from_proto(&btf, proto, "f")
                    .unwrap_err()
                    .message(),
                message
            );
        }
    }
}
