//! XDP as rtnetlink asks for it (RTM_SETLINK with IFLA_XDP): [`Net::request_xdp`], and the mode a device runs its program in.
//!
//! # Source
//! Linux 6.18, asked over a veth device and `lo` of a network namespace of its own.

use std::sync::Arc;

use ring3_objects::Program;
use ring3_runtime::ProgObject;
use ring3_uapi::{Errno, ProgType};

use crate::{Device, HookSlot, Net};

/// Where a device's XDP program runs; here that is one place, but it is told and compared as the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Driver,
    /// In the stack.
    Generic,
}

impl XdpMode {
    /// bpftool's word.
    pub const fn name(self) -> &'static str {
        match self {
            XdpMode::Driver => "driver",
            XdpMode::Generic => "generic",
        }
    }
}

/// Why a request is refused: the errno, and the kernel's words where it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpRefusal {
    /// Errno.
    pub errno: Errno,
    /// What the kernel says of it; empty where it says nothing.
    pub words: &'static str,
}

/// Bits of `IFLA_XDP_FLAGS`.
pub mod xdp_flags {
    /// Only if there is none.
    pub const UPDATE_IF_NOEXIST: u32 = 1;
    /// In the stack.
    pub const SKB_MODE: u32 = 1 << 1;
    /// In the driver.
    pub const DRV_MODE: u32 = 1 << 2;
    /// In the device.
    pub const HW_MODE: u32 = 1 << 3;
    /// Only in the place of the expected program.
    pub const REPLACE: u32 = 1 << 4;
}

/// What a request says beside the program.
#[derive(Clone, Default)]
pub struct XdpRequest {
    /// Of [`xdp_flags`].
    pub flags: u32,
    /// The program that must be there (`IFLA_XDP_EXPECTED_FD`; inner `None`: none must be); outer `None` where the request does not say.
    pub expected: Option<Option<Arc<Program>>>,
}

const fn refuse(errno: Errno, words: &'static str) -> XdpRefusal {
    XdpRefusal { errno, words }
}

const IN_USE: XdpRefusal = refuse(Errno::EBUSY, "Can't replace active BPF XDP link");
const BOTH_MODES: XdpRefusal = refuse(
    Errno::EEXIST,
    "Native and generic XDP can't be active at the same time",
);
const UNEXPECTED: XdpRefusal = refuse(Errno::EEXIST, "Active program does not match expected");
const PRESENT: XdpRefusal = refuse(Errno::EBUSY, "XDP program already attached");
const NOT_NATIVE: XdpRefusal = refuse(
    Errno::EOPNOTSUPP,
    "Underlying driver does not support XDP in native mode",
);

/// `lo` has no XDP in its driver.
pub(crate) fn default_mode(device: &Device) -> XdpMode {
    const LOOPBACK: u32 = 1;
    if device.ifindex() == LOOPBACK {
        XdpMode::Generic
    } else {
        XdpMode::Driver
    }
}

impl Net {
    /// Checks the flags of a request before its descriptors are looked at.
    ///
    /// # Errors
    /// EINVAL: unknown flags, two modes, the device's own engine, or REPLACE without an expected program.
    pub fn check_xdp_request(flags: u32, has_expected: bool) -> Result<(), XdpRefusal> {
        use xdp_flags as f;
        let known = f::UPDATE_IF_NOEXIST | f::SKB_MODE | f::DRV_MODE | f::HW_MODE | f::REPLACE;
        let modes = flags & (f::SKB_MODE | f::DRV_MODE | f::HW_MODE);
        let is_bad = flags & !known != 0
            || modes.count_ones() > 1
            || modes == f::HW_MODE
            || flags & f::REPLACE != 0 && !has_expected;
        if is_bad {
            Err(refuse(Errno::EINVAL, ""))
        } else {
            Ok(())
        }
    }

    /// Attaches an XDP program without a link, or takes off the one that runs in the request's mode.
    ///
    /// # Errors
    /// As [`Net::check_xdp_request`]. EINVAL: no XDP program. EBUSY: a link holds the place, or a program is there that may not be. EEXIST: the other
    /// mode is in use, or another program is there than expected. EOPNOTSUPP: no XDP in the driver.
    pub fn request_xdp(
        &self,
        device: &Device,
        prog: Option<&Arc<Program>>,
        request: &XdpRequest,
    ) -> Result<(), XdpRefusal> {
        Self::check_xdp_request(request.flags, request.expected.is_some())?;
        if prog.is_some_and(|prog| prog.prog_type() != ProgType::Xdp) {
            return Err(refuse(Errno::EINVAL, ""));
        }
        let mode = match request.flags & (xdp_flags::SKB_MODE | xdp_flags::DRV_MODE) {
            xdp_flags::SKB_MODE => XdpMode::Generic,
            xdp_flags::DRV_MODE => XdpMode::Driver,
            _ => default_mode(device),
        };
        let mut refused = None;
        let edited =
            device.set_xdp_slot(
                |old| match judge(device, old.as_ref(), mode, prog, request) {
                    Ok(Change::Keep) => Ok(old.clone()),
                    Ok(Change::Set) => {
                        device.set_xdp_mode(mode);
                        Ok(prog.map(|prog| HookSlot::new(prog, None)))
                    }
                    Err(refusal) => {
                        refused = Some(refusal);
                        Ok(old.clone())
                    }
                },
            );
        match (refused, edited) {
            (Some(refusal), _) => Err(refusal),
            (None, Err(error)) => Err(refuse(error.errno, "")),
            (None, Ok(())) => Ok(()),
        }
    }
}

enum Change {
    Keep,
    Set,
}

fn judge(
    device: &Device,
    old: Option<&HookSlot>,
    mode: XdpMode,
    prog: Option<&Arc<Program>>,
    request: &XdpRequest,
) -> Result<Change, XdpRefusal> {
    let other_mode = old.is_some() && device.xdp_mode() != mode;
    // What runs in the mode that the request is about.
    let active = old.filter(|_| !other_mode);
    if active.is_some_and(|slot| slot.link.is_some()) {
        return Err(IN_USE);
    }
    if request.flags & xdp_flags::REPLACE != 0
        && let Some(expected) = &request.expected
    {
        let id = |prog: &Arc<Program>| prog.id();
        if active.map(|slot| id(&slot.prog)) != expected.as_ref().map(id) {
            return Err(UNEXPECTED);
        }
    }
    if prog.is_none() {
        return Ok(match active {
            Some(_) => Change::Set,
            None => Change::Keep,
        });
    }
    if other_mode {
        return Err(BOTH_MODES);
    }
    if request.flags & xdp_flags::UPDATE_IF_NOEXIST != 0 && active.is_some() {
        return Err(PRESENT);
    }
    if mode == XdpMode::Driver && default_mode(device) == XdpMode::Generic {
        return Err(NOT_NATIVE);
    }
    Ok(Change::Set)
}
