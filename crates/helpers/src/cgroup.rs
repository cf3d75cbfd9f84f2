//! Cgroup hooks: the return value that programs of one hook hand on, storage of an attachment, and membership of the current task.

use ring3_maps::{CgroupArray, CgroupStorage, Map};
use ring3_runtime::{RunContext, current_task};
use ring3_uapi::Errno;

use crate::bind::implement;

/// The value of the attachment that runs. Programs may use it unchecked, so that one that was never attached (a test run) gets a value too.
fn value_of(storage: &CgroupStorage, cgroup_id: u64, attach_type: u32) -> u64 {
    match storage.value_of(cgroup_id, attach_type) {
        0 => match storage.attach(cgroup_id, attach_type) {
            Ok(()) => storage.value_of(cgroup_id, attach_type),
            Err(_) => 0,
        },
        value => value,
    }
}

implement! { ROWS:
    GetRetval() { i64::from(RunContext::current_retval()) }
    SetRetval(retval: i32) { RunContext::set_current_retval(retval).then_some(()).ok_or(Errno::EINVAL) }
    GetLocalStorage(map: &Map, _flags: u64) {
        let attach_type = RunContext::current_attach_type();
        let storage = map.downcast::<CgroupStorage>();
        let value = storage.map_or(0, |storage| value_of(storage, current_task().cgroup_id, attach_type));
        std::ptr::with_exposed_provenance_mut(value as usize)
    }
    CurrentTaskUnderCgroup(map: &Map, index: u32) {
        let groups = map.downcast::<CgroupArray>().ok_or(Errno::EINVAL);
        groups.and_then(|groups| {
            let wanted = groups.cgroup_id(index)?;
            let own = current_task().cgroup_id;
            Ok(u64::from(wanted == own || wanted == crate::task::ROOT_CGROUP))
        })
    }
}

implement! { CURRENT_VARIANTS:
    /// Tasks are in no class.
    GetCgroupClassidCurr() { 0u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType};
    use ring3_runtime::{Task, with_run_context};
    use ring3_uapi::FuncId;
    use std::sync::Arc;

    #[test]
    fn a_hook_hands_its_return_value_on() {
        let [get, set] = [FuncId::GetRetval, FuncId::SetRetval].map(|id| crate::find(id).unwrap());
        // SAFETY: neither reads memory.
        let (get, set) = unsafe {
            (
                || get(0, 0, 0, 0, 0) as i64,
                |retval: i32| set(retval as u64, 0, 0, 0, 0) as i64,
            )
        };
        assert_eq!((get(), set(-5)), (0, Errno::EINVAL.negated()));
        let context = RunContext::default();
        with_run_context(&context, || {
            assert_eq!((get(), set(-5), get()), (0, 0, -5));
        });
        assert_eq!(context.retval.get(), -5);
    }

    #[test]
    fn a_task_is_under_its_own_cgroup_and_the_root() {
        let map = Map::create(&MapAttr::new(MapType::CgroupArray, 4, 4, 3)).unwrap();
        let groups = map.downcast::<CgroupArray>().unwrap();
        groups.set(0, 77, Arc::new(())).unwrap();
        groups.set(1, 1, Arc::new(())).unwrap();
        let under = crate::find(FuncId::CurrentTaskUnderCgroup).unwrap();
        // SAFETY: the map lives.
        let under = |index| unsafe { under(map.program_ptr(), index, 0, 0, 0) as i64 };
        let in_group = |cgroup_id| RunContext {
            task: Some(Task {
                cgroup_id,
                ..current_task()
            }),
            ..RunContext::default()
        };
        with_run_context(&in_group(77), || assert_eq!((under(0), under(1)), (1, 1)));
        with_run_context(&in_group(78), || assert_eq!((under(0), under(1)), (0, 1)));
        assert_eq!(under(2), Errno::EAGAIN.negated());
        assert_eq!(under(3), Errno::E2BIG.negated());
    }
}
