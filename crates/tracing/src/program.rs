//! Functions of BPF programs as targets.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use ring3_btf::{FuncModel, TypeId};
use ring3_objects::{Engine, Error, Program};
use ring3_trampoline::Target;
use ring3_uapi::Errno;

/// What is kept with a program that is or was traced: one target per function, as long as the program lives.
#[derive(Default)]
pub(crate) struct Functions {
    targets: Mutex<HashMap<usize, Arc<Target>>>,
}

/// The target of the function that has this id in the program's BTF.
///
/// # Errors
/// EINVAL: no such function, or the program is not compiled. ENOTSUPP: its calls were replaced by its instructions.
pub(crate) fn target_of(prog: &Program, function: TypeId) -> Result<Arc<Target>, Error> {
    let refuse =
        |errno, what: String| Error::new(errno, format!("program '{}': {what}", prog.name()));
    let Engine::Jit(compiled) = prog.engine() else {
        return Err(refuse(Errno::EINVAL, "is not compiled".to_owned()));
    };
    let subprogs = &prog.verified().subprogs;
    let index = subprogs
        .iter()
        .position(|subprog| subprog.type_id == function.0)
        .ok_or_else(|| refuse(Errno::EINVAL, format!("no function with BTF id {function}")))?;
    let subprog = &subprogs[index];
    if compiled.is_inlined(index) {
        let what = format!(
            "calls of function '{}' were inlined before tracing was there",
            subprog.name
        );
        return Err(refuse(Errno::ENOTSUPP, what));
    }
    let functions = prog
        .traced(Functions::default)
        .ok_or_else(|| refuse(Errno::EBUSY, "is traced by somebody else".to_owned()))?;
    let mut targets = functions.targets.lock();
    if let Some(target) = targets.get(&index) {
        return Ok(Arc::clone(target));
    }
    let described = prog.attr().btf.as_ref().filter(|_| !subprog.unreliable);
    let model = described
        .and_then(|btf| {
            let func = btf.type_by_id(function)?;
            FuncModel::from_proto(btf, func.type_id(), func.name()).ok()
        })
        .unwrap_or_else(FuncModel::untyped);
    let target = Target::of_program(Arc::clone(compiled), index, &model)
        .map_err(|error| refuse(error.errno(), error.to_string()))?;
    targets.insert(index, Arc::clone(&target));
    Ok(target)
}
