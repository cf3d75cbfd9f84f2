//! Stacks: `bpf_get_stack`, `bpf_get_stackid`, `bpf_get_task_stack`.
//!
//! A program runs on its host's stack, so there is one chain of frames, from the helper outwards:
//!
//! ```text
//! helper's frame -> the program -> ring3 -> the host's functions
//! kernel stack:     [.......................................]   all of it
//! user stack:                      [........................]   what lies in the host's files
//! ```
//! Frames are followed by rbp, as perf does. Compiled programs push rbp before the registers they save, so that up to four words lie between
//! it and where rbp points. Host functions compiled without frame pointers hide their callers; an empty user stack is given the
//! first return address into the host.
//!
//! Neighbours: `vma` (what is text, build ids), `ring3_maps::stack_trace` (chains by their id).

use ring3_isa::MemSize;
use ring3_maps::Map;
use ring3_maps::stack_trace::{FRAMES_MAX, StackTrace, stackid};
use ring3_runtime::extable::probe_load;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::bind::{AnyCtx, bytes_mut, implement};
use crate::task_object;
use crate::vma::{BUILD_ID_BYTES, known_text_at, text_at};

/// `BPF_F_USER_BUILD_ID`
const USER_BUILD_ID: u64 = 1 << 11;
/// Bytes of `struct bpf_stack_build_id`: status, build id, offset.
const BUILD_ID_FRAME_BYTES: usize = 32;
/// `BPF_STACK_BUILD_ID_VALID`
const VALID: u32 = 1;
/// `BPF_STACK_BUILD_ID_IP`
const IP: u32 = 2;
/// Registers that a compiled program saves between rbp and where rbp points.
const SAVED_MAX: u64 = 4;
/// One frame is not longer; a stack is not either.
const FRAME_BYTES_MAX: u64 = 8 << 20;
/// Words that are searched for a return address where no chain of frames leads to one.
const SEARCH_WORDS: u64 = 512;

fn word(address: u64) -> u64 {
    probe_load(address, MemSize::Dw)
}

/// Whether an address is text. Each walk reads the mappings at most once anew.
struct TextTest {
    may_read: bool,
}

impl TextTest {
    fn is_text(&mut self, address: u64) -> Option<bool> {
        let known = known_text_at(address).or_else(|| {
            // Small numbers and addresses of no process are no text, however often the mappings are read.
            if !self.may_read || !(1 << 16..1 << 47).contains(&address) {
                return None;
            }
            self.may_read = false;
            text_at(address)
        });
        known.map(|text| text.is_host)
    }
}

/// Return addresses from `frame` outwards, the innermost first.
fn walk(mut frame: u64, wants_user: bool) -> Vec<u64> {
    let mut test = TextTest { may_read: true };
    let mut found = Vec::new();
    let innermost = frame;
    let mut saved_max = 0;
    while found.len() < FRAMES_MAX as usize {
        let place = (0..=saved_max).find_map(|saved| {
            let at = frame + 8 * saved;
            let is_host = test.is_text(word(at + 8))?;
            Some((at, is_host))
        });
        let Some((at, is_host)) = place else { break };
        if is_host || !wants_user {
            found.push(word(at + 8));
        }
        let next = word(at);
        if next <= at || next - at > FRAME_BYTES_MAX || !next.is_multiple_of(8) {
            break;
        }
        frame = next;
        saved_max = SAVED_MAX;
    }
    if found.is_empty() && wants_user {
        let words = (1..SEARCH_WORDS).map(|index| word(innermost + 8 * index));
        found.extend(
            words
                .into_iter()
                .find(|&word| test.is_text(word) == Some(true)),
        );
    }
    found
}

/// One frame as `struct bpf_stack_build_id`; an address in no file with a build id stands for itself.
fn build_id_frame(address: u64) -> [u8; BUILD_ID_FRAME_BYTES] {
    let mut frame = [0; BUILD_ID_FRAME_BYTES];
    let text = known_text_at(address);
    let (status, offset) = match text.and_then(|text| Some((text.build_id?, text))) {
        Some((build_id, text)) => {
            frame[4..4 + BUILD_ID_BYTES].copy_from_slice(&build_id);
            (VALID, text.offset_of(address))
        }
        None => (IP, address),
    };
    frame[..4].copy_from_slice(&status.to_ne_bytes());
    frame[24..].copy_from_slice(&offset.to_ne_bytes());
    frame
}

fn encode(frames: &[u64], has_build_ids: bool) -> Vec<u8> {
    if has_build_ids {
        frames
            .iter()
            .flat_map(|&address| build_id_frame(address))
            .collect()
    } else {
        frames
            .iter()
            .flat_map(|address| address.to_ne_bytes())
            .collect()
    }
}

/// The chain less the frames that the flags skip.
///
/// # Errors
/// EFAULT: nothing is left.
fn chain(frame: u64, flags: u64) -> Result<Vec<u64>, Errno> {
    let mut frames = walk(frame, flags & stackid::USER_STACK != 0);
    let skip = (flags & stackid::SKIP_FIELD_MASK) as usize;
    if skip >= frames.len() {
        return Err(Errno::EFAULT);
    }
    frames.drain(..skip);
    Ok(frames)
}

/// Fills `out` with frames; the bytes of the frames, the rest of `out` is zero.
///
/// # Errors
/// EINVAL: unknown flags, build ids of the kernel's stack, a size that holds no whole number of frames. EFAULT: no frames.
fn get_stack(out: &mut [u8], frame: u64, flags: u64) -> Result<u64, Errno> {
    out.fill(0);
    let known = stackid::SKIP_FIELD_MASK | stackid::USER_STACK | USER_BUILD_ID;
    let wants_build_ids = flags & USER_BUILD_ID != 0;
    let frame_bytes = if wants_build_ids {
        BUILD_ID_FRAME_BYTES
    } else {
        8
    };
    if flags & !known != 0
        || (wants_build_ids && flags & stackid::USER_STACK == 0)
        || !out.len().is_multiple_of(frame_bytes)
    {
        return Err(Errno::EINVAL);
    }
    let mut frames = chain(frame, flags)?;
    frames.truncate(out.len() / frame_bytes);
    let bytes = encode(&frames, wants_build_ids);
    out[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len() as u64)
}

/// # Errors
/// EINVAL: unknown flags. EFAULT: no frames. As [`StackTrace::store`].
fn get_stackid(map: &Map, frame: u64, flags: u64) -> Result<u64, Errno> {
    let known = stackid::SKIP_FIELD_MASK
        | stackid::USER_STACK
        | stackid::FAST_STACK_CMP
        | stackid::REUSE_STACKID;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let traces = map.downcast::<StackTrace>().ok_or(Errno::EINVAL)?;
    let mut frames = chain(frame, flags)?;
    frames.truncate(traces.frames_max());
    let has_build_ids = map.map_flags() & map_create::STACK_BUILD_ID != 0;
    traces
        .store(&encode(&frames, has_build_ids), flags)
        .map(u64::from)
}

implement! { ROWS:
    GetStackid<frame>(_ctx: AnyCtx, map: &Map, flags: u64) { get_stackid(map, frame, flags) }
    GetStack<frame>(_ctx: AnyCtx, buf: *mut u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        get_stack(unsafe { bytes_mut(buf, size) }, frame, flags)
    }
    GetTaskStack<frame>(task: u64, buf: *mut u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(buf, size) };
        if task == task_object::current() {
            get_stack(out, frame, flags)
        } else {
            // DIVERGES: stacks of other tasks are not walked: they run while we look.
            out.fill(0);
            Err(Errno::EOPNOTSUPP)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType};
    use ring3_uapi::FuncId;

    fn stack(size: usize, flags: u64) -> (i64, Vec<u8>) {
        let get = crate::find(FuncId::GetStack).unwrap();
        let mut out = vec![9u8; size];
        let address = out.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the buffer lives.
        let ret = unsafe { get(0, address, size as u64, flags, 0) as i64 };
        (ret, out)
    }

    #[test]
    fn the_first_frame_is_the_caller_of_the_helper() {
        for flags in [0, stackid::USER_STACK] {
            let (ret, out) = stack(1024, flags);
            assert!(ret >= 8 && ret % 8 == 0, "{ret}");
            let first = u64::from_ne_bytes(*out.first_chunk().unwrap());
            let text = text_at(first).unwrap();
            assert!(text.is_host);
            assert!(out[ret as usize..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn frames_are_skipped_from_the_innermost_outwards() {
        // Three frames, each the next one's address and a return address in this program.
        let text = crate::find as *const () as u64;
        let mut chain = [0, text + 1, 0, text + 2, 0, text + 3];
        let base = chain.as_ptr().expose_provenance() as u64;
        (chain[0], chain[2]) = (base + 16, base + 32);
        let frames = |flags: u64| {
            let mut out = [9; 64];
            let len = get_stack(&mut out, base, flags)? as usize;
            assert!(out[len..].iter().all(|&byte| byte == 0));
            let words = out[..len].chunks_exact(8);
            Ok(words
                .map(|word| u64::from_ne_bytes(word.try_into().unwrap()) - text)
                .collect::<Vec<_>>())
        };
        for space in [0, stackid::USER_STACK] {
            assert_eq!(frames(space), Ok(vec![1, 2, 3]));
            assert_eq!(frames(space | 1), Ok(vec![2, 3]));
            assert_eq!(frames(space | 2), Ok(vec![3]));
            assert_eq!(frames(space | 3), Err(Errno::EFAULT));
        }
        assert_ne!(chain[0], 0);
    }

    #[test]
    fn frames_with_build_ids_name_file_and_offset() {
        let (ret, out) = stack(64, stackid::USER_STACK | USER_BUILD_ID);
        assert!(ret >= 32 && ret % 32 == 0, "{ret}");
        let (_, plain) = stack(8, stackid::USER_STACK);
        let address = u64::from_ne_bytes(*plain.first_chunk().unwrap());
        let text = text_at(address).unwrap();
        let status = u32::from_ne_bytes(*out.first_chunk().unwrap());
        match text.build_id {
            Some(build_id) => {
                assert_eq!(status, VALID);
                assert_eq!(out[4..24], build_id);
            }
            None => assert_eq!(status, IP),
        }
    }

    #[test]
    fn flags_and_sizes_that_fit_nothing_are_refused_and_the_buffer_is_zeroed() {
        for (size, flags) in [(16, 1 << 9), (16, USER_BUILD_ID), (12, 0), (40, 0x900)] {
            let (ret, out) = stack(size, flags);
            assert_eq!(ret, Errno::EINVAL.negated(), "{size} {flags:#x}");
            assert!(out.iter().all(|&byte| byte == 0));
        }
        let (ret, out) = stack(16, 0xff);
        assert_eq!(ret, Errno::EFAULT.negated());
        assert_eq!(out, [0; 16]);
    }

    #[inline(never)]
    fn stackid(map: &Map, flags: u64) -> i64 {
        let get = crate::find(FuncId::GetStackid).unwrap();
        // SAFETY: the map lives.
        unsafe { get(0, map.program_ptr(), flags, 0, 0) as i64 }
    }

    #[test]
    fn the_same_stack_has_the_same_id() {
        let map = Map::create(&MapAttr::new(MapType::StackTrace, 4, 8, 64)).unwrap();
        let ids: Vec<i64> = (0..3).map(|_| stackid(&map, stackid::USER_STACK)).collect();
        assert!((0..64).contains(&ids[0]), "{ids:?}");
        assert_eq!(ids, [ids[0]; 3]);
        assert_eq!(stackid(&map, 1 << 12), Errno::EINVAL.negated());
        assert_eq!(stackid(&map, 0xff), Errno::EFAULT.negated());
    }

    #[test]
    fn only_the_current_task_has_a_stack() {
        let get = crate::find(FuncId::GetTaskStack).unwrap();
        let mut out = [9u8; 16];
        let address = out.as_mut_ptr().expose_provenance() as u64;
        let task = task_object::current();
        // SAFETY: the buffer and the task object live.
        unsafe {
            assert!(get(task, address, 16, 0, 0) as i64 >= 8);
            assert_eq!(
                get(task + 64, address, 16, 0, 0) as i64,
                Errno::EOPNOTSUPP.negated()
            );
        }
        assert_eq!(out, [0; 16]);
    }
}
