//! Whether two functions of two BTFs have the same prototype, for extensions.

use alloc::format;
use alloc::string::String;

use ring3_btf::{Btf, FuncLinkage, Kind, Type, TypeId};

/// Compares an extension's function with the one that it replaces.
///
/// # Errors
/// The kernel's words.
pub(super) fn check_func_match(
    own_btf: &Btf,
    own: Type<'_>,
    target_btf: &Btf,
    target: Type<'_>,
) -> Result<(), String> {
    let (own_name, target_name) = (own.name(), target.name());
    if own.func_linkage() != Some(FuncLinkage::Global) {
        return Err(format!("{own_name}() is not a global function"));
    }
    if target.func_linkage() != Some(FuncLinkage::Global) {
        return Err(format!("{target_name}() is not a global function"));
    }
    let (Some(own_proto), Some(target_proto)) = (own.referent(), target.referent()) else {
        return Err(String::new());
    };
    let args = (own_proto.params().len(), target_proto.params().len());
    if args.0 != args.1 {
        return Err(format!(
            "{own_name}() has {} args while {target_name}() has {} args",
            args.0, args.1
        ));
    }
    let (Some(own_ret), Some(target_ret)) = (
        own_btf.stripped(own_proto.type_id()),
        target_btf.stripped(target_proto.type_id()),
    ) else {
        return Err(String::new());
    };
    // Kind, number of records and flag: two integers of different sizes are alike.
    if own_ret.info() != target_ret.info() {
        return Err(format!(
            "Return type {} of {own_name}() doesn't match type {} of {target_name}()",
            own_ret.kind().name(),
            target_ret.kind().name()
        ));
    }
    for (idx, (own, target)) in own_proto.params().zip(target_proto.params()).enumerate() {
        compare_arg(
            (own_btf, own.ty),
            (target_btf, target.ty),
            idx,
            own_name,
            target_name,
        )?;
    }
    Ok(())
}

fn compare_arg(
    (own_btf, own): (&Btf, TypeId),
    (target_btf, target): (&Btf, TypeId),
    idx: usize,
    own_name: &str,
    target_name: &str,
) -> Result<(), String> {
    let (Some(own), Some(target)) = (own_btf.stripped(own), target_btf.stripped(target)) else {
        return Err(String::new());
    };
    if own.info() != target.info() {
        return Err(format!(
            "arg{idx} in {own_name}() is {} while {target_name}() has {}",
            own.kind().name(),
            target.kind().name()
        ));
    }
    if own.kind().has_size() && own.size() != target.size() {
        return Err(format!(
            "arg{idx} in {own_name}() has size {} while {target_name}() has {}",
            own.size(),
            target.size()
        ));
    }
    if own.kind() == Kind::Int || own.kind().is_any_enum() {
        return Ok(());
    }
    if own.kind() != Kind::Ptr {
        return Err(format!("arg{idx} in {own_name}() has unrecognized type"));
    }
    let (Some(own), Some(target)) = (
        own_btf.stripped(own.type_id()),
        target_btf.stripped(target.type_id()),
    ) else {
        return Err(String::new());
    };
    for (ty, name) in [(own, own_name), (target, target_name)] {
        if !ty.kind().is_composite() {
            return Err(format!("arg{idx} in {name}() is not a pointer to context"));
        }
    }
    if own.name() != target.name() {
        return Err(format!(
            "arg{idx} {own_name}(struct {} *) doesn't match {target_name}(struct {} *)",
            own.name(),
            target.name()
        ));
    }
    Ok(())
}
