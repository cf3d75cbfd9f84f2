//! Test runs over XDP frames.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 and Documentation/bpf/bpf_prog_run.rst.

use ring3_helpers::packet::XdpBuff;
use ring3_objects::{Error, ProgTypeOps, Program, TestRun, TestRunResult};
use ring3_uapi::Errno;

use super::{invalid, loopback, over, timed};

/// Bytes of `struct xdp_md`.
const XDP_MD_BYTES: usize = 24;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`
pub const LIVE_FRAMES: u32 = 1 << 1;

/// XDP programs.
pub(crate) struct XdpOps;

impl ProgTypeOps for XdpOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        if run.flags & LIVE_FRAMES != 0 {
            return Err(Error::new(
                Errno::ENOTSUPP,
                format!(
                    "program '{}': live frames need a network to travel in (Net::run_live)",
                    prog.name()
                ),
            ));
        }
        if run.flags != 0 || run.batch_size != 0 {
            return Err(invalid(prog, "flags and batch_size must be 0"));
        }
        let Split {
            metadata_bytes,
            linear_bytes,
            ..
        } = split(prog, run, &|_| false)?;
        let (metadata, packet) = run.data_in.split_at(metadata_bytes);
        const EMPTY: [u8; 14] = [0; 14];
        let mut xdp =
            XdpBuff::received(&EMPTY, loopback(), 0).map_err(|errno| Error::new(errno, "lo"))?;
        xdp.refill_split(packet, linear_bytes, loopback(), 0)
            .map_err(|errno| Error::new(errno, format!("data_in of {} bytes", packet.len())))?;
        xdp.set_metadata(metadata)
            .map_err(|errno| Error::new(errno, format!("metadata of {metadata_bytes} bytes")))?;
        let program = over(prog)?;
        let (retval, duration_ns) = timed(run, || program.run(&mut xdp))?;
        let data_out = [xdp.metadata(), &xdp.frame()].concat();
        let ctx_out = match (run.wants_ctx, run.ctx_in.len()) {
            // Without a context nothing is written to it.
            (true, 0) => vec![0; XDP_MD_BYTES],
            (true, _) => read_back(&xdp, &run.ctx_in),
            (false, given) => {
                let mut ctx = read_back(&xdp, &run.ctx_in);
                ctx.truncate(given);
                ctx
            }
        };
        Ok(TestRunResult {
            retval,
            duration_ns,
            data_out,
            ctx_out,
        })
    }
}

/// How a context divides `data_in`.
pub(super) struct Split {
    /// Bytes before where it says that `data` begins.
    pub(super) metadata_bytes: usize,
    /// Bytes from there to where it says that `data` ends.
    pub(super) linear_bytes: usize,
    /// The device that the packet came from.
    pub(super) ifindex: u32,
}

/// What the context says, if there is one. `lo` and devices that `has_device` knows have one queue.
pub(super) fn split(
    prog: &Program,
    run: &TestRun,
    has_device: &dyn Fn(u32) -> bool,
) -> Result<Split, Error> {
    const LOOPBACK: u32 = 1;
    if run.ctx_in.is_empty() {
        return Ok(Split {
            metadata_bytes: 0,
            linear_bytes: run.data_in.len(),
            ifindex: LOOPBACK,
        });
    }
    if run.ctx_in.iter().skip(XDP_MD_BYTES).any(|&byte| byte != 0) {
        return Err(invalid(
            prog,
            "ctx_in: bytes beyond struct xdp_md must be 0",
        ));
    }
    let field = |index: usize| {
        u32::from_ne_bytes(std::array::from_fn(|i| {
            run.ctx_in.get(index * 4 + i).copied().unwrap_or(0)
        }))
    };
    let [
        data,
        data_end,
        data_meta,
        ingress_ifindex,
        rx_queue_index,
        egress_ifindex,
    ] = [0, 1, 2, 3, 4, 5].map(field);
    if data_meta != 0
        || data_end as usize > run.data_in.len()
        || data > data_end
        || data % 4 != 0
        || data > 255
    {
        return Err(invalid(
            prog,
            "ctx_in: data, data_end and data_meta do not fit data_in",
        ));
    }
    if egress_ifindex != 0 || (ingress_ifindex == 0 && rx_queue_index != 0) {
        return Err(invalid(
            prog,
            "ctx_in: egress_ifindex, or rx_queue_index without a device",
        ));
    }
    let ifindex = ingress_ifindex.max(LOOPBACK);
    if ifindex != LOOPBACK && !has_device(ifindex) {
        return Err(Error::new(
            Errno::ENODEV,
            format!("ctx_in: no device with ifindex {ifindex}"),
        ));
    }
    if rx_queue_index != 0 {
        return Err(invalid(
            prog,
            "ctx_in: rx_queue_index beyond the queues of the device",
        ));
    }
    Ok(Split {
        metadata_bytes: data as usize,
        linear_bytes: (data_end - data) as usize,
        ifindex,
    })
}

/// The context as it was given, with where `data` begins and ends now.
fn read_back(xdp: &XdpBuff, ctx_in: &[u8]) -> Vec<u8> {
    let mut ctx = ctx_in.to_owned();
    ctx.resize(XDP_MD_BYTES, 0);
    let data = xdp.metadata().len() as u32;
    let data_end = data + xdp.data().len() as u32;
    for (field, value) in ctx.chunks_exact_mut(4).zip([data, data_end, 0]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    ctx
}
