//! `bpf_trace_printk` and `bpf_trace_vprintk`: format a line ([`crate::format`]) and give it to the trace sink.
//!
//! Key types: [`TraceLine`], [`set_trace_sink`].

use std::sync::RwLock;

use ring3_runtime::{Task, current_task};
use ring3_uapi::Errno;

use crate::bind::{bytes, implement};
use crate::format::{ArgWords, Formatted, format};

/// One line of the trace pipe.
#[derive(Clone, Debug)]
pub struct TraceLine {
    /// Who was running.
    pub task: Task,
    /// CPU.
    pub cpu: u32,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// Text, without the final newline.
    pub text: String,
}

/// As `/sys/kernel/tracing/trace_pipe` prints it.
impl std::fmt::Display for TraceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let comm = String::from_utf8_lossy(&self.task.comm);
        let comm = comm.trim_end_matches('\0');
        let micros = self.time_ns / 1000;
        write!(
            f,
            "{comm:>16}-{:<7} [{:03}] ....1 {:>5}.{:06}: bpf_trace_printk: {}",
            self.task.pid,
            self.cpu,
            micros / 1_000_000,
            micros % 1_000_000,
            self.text
        )
    }
}

type Sink = Box<dyn Fn(&TraceLine) + Send + Sync>;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Where trace lines go from now on; without a sink they go nowhere.
pub fn set_trace_sink(sink: Option<Sink>) {
    *SINK
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = sink;
}

/// Bytes of one line, its NUL included. Source: `BPF_TRACE_PRINTK_SIZE`.
const LINE_BYTES: usize = 1024;

/// Prints a line; its length before it was cut.
fn print(fmt: &[u8], args: &[u64]) -> Result<u64, Errno> {
    let Formatted { kept, len } = format(fmt, args, LINE_BYTES - 1)?;
    let sink = SINK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(sink) = sink.as_ref() {
        let text = String::from_utf8_lossy(&kept);
        sink(&TraceLine {
            task: current_task(),
            cpu: ring3_sync::rcu::section_cpu(),
            time_ns: ring3_os::time::monotonic_ns(),
            text: text.trim_end_matches('\n').to_owned(),
        });
    }
    Ok(len as u64)
}

implement! { ROWS:
    /// The prototype names two arguments; r3 to r5 are the values.
    TracePrintk[regs](fmt: *const u8, fmt_size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        print(unsafe { bytes(fmt, fmt_size) }, &[regs[2], regs[3], regs[4]])
    }
    TraceVprintk(fmt: *const u8, fmt_size: u32, data: *const u8, data_len: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size, twice.
        let (fmt, data) = unsafe { (bytes(fmt, fmt_size), bytes(data, data_len)) };
        ArgWords::new(data, data_len).and_then(|args| print(fmt, args.words()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_sink_cut_and_return_their_whole_length() {
        use std::sync::{Arc, Mutex};
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = lines.clone();
        set_trace_sink(Some(Box::new(move |line| {
            seen.lock().unwrap().push(line.text.clone());
        })));
        let vprintk = crate::find(ring3_uapi::FuncId::TraceVprintk).unwrap();
        let call = |fmt: &[u8], data: &[u64], data_len: u64| {
            let fmt_ptr = fmt.as_ptr().expose_provenance() as u64;
            let data_ptr = data.as_ptr().expose_provenance() as u64;
            // SAFETY: memory and sizes fit; sizes that do not are refused before they are used or are within the array.
            unsafe { vprintk(fmt_ptr, fmt.len() as u64, data_ptr, data_len, 0) as i64 }
        };
        assert_eq!(call(b"%d+%d+%d=%d\n\0", &[1, 2, 3, 6], 32), 8);
        assert_eq!(call(b"%2000d\0", &[7], 8), 2000);
        assert_eq!(call(b"%d\0", &[7], 7), Errno::EINVAL.negated());
        assert_eq!(call(b"%d\0", &[7; 13], 13 * 8), Errno::EINVAL.negated());
        set_trace_sink(None);
        let lines = lines.lock().unwrap();
        assert!(lines.contains(&"1+2+3=6".to_owned()));
        assert!(lines.contains(&" ".repeat(LINE_BYTES - 1)));
    }

    #[test]
    fn lines_look_like_the_trace_pipe() {
        let line = TraceLine {
            task: Task {
                pid: 42,
                tgid: 42,
                uid: 0,
                gid: 0,
                comm: *b"ring3\0\0\0\0\0\0\0\0\0\0\0",
                cgroup_id: 1,
            },
            cpu: 1,
            time_ns: 12_345_678_000,
            text: "hello".into(),
        };
        assert_eq!(
            line.to_string(),
            "           ring3-42      [001] ....1    12.345678: bpf_trace_printk: hello"
        );
    }
}
