//! Attaching programs to hooks as Rust callers name them: device, direction and an [`Anchor`], or a cgroup and a place.

use std::sync::Arc;

use ring3_mprog::Anchor;
use ring3_objects::{Error, LinkObject, Program};
use ring3_uapi::{Errno, ProgType, flags::mprog as bits};

use crate::{
    Net,
    cgroup::{Cgroup, CgroupAttach},
    device::{Device, Direction},
    hook::{Held, HookSlot},
    links,
    xdp_request::default_mode,
};

impl Net {
    /// Attaches an XDP program to a device, or takes it off with `None`.
    ///
    /// # Errors
    /// EINVAL: no XDP program. EBUSY: a link holds the place, or inside of a program run.
    pub fn set_xdp(&self, device: &Device, prog: Option<&Arc<Program>>) -> Result<(), Error> {
        if let Some(prog) = prog {
            check_type(prog, ProgType::Xdp)?;
        }
        device.set_xdp_slot(|old| match old {
            Some(HookSlot { link: Some(_), .. }) => {
                let message = format!("device '{}': a link holds its XDP program", device.name());
                Err(Error::new(Errno::EBUSY, message))
            }
            _ => {
                device.set_xdp_mode(default_mode(device));
                Ok(prog.map(|prog| HookSlot::new(prog, None)))
            }
        })
    }

    /// Attaches an XDP program through a link.
    ///
    /// # Errors
    /// EINVAL: no XDP program. EBUSY: there is one already, or inside of a program run.
    pub fn link_xdp(
        &self,
        device: &Arc<Device>,
        prog: &Arc<Program>,
    ) -> Result<Arc<LinkObject>, Error> {
        check_type(prog, ProgType::Xdp)?;
        links::link_xdp(self, device, prog, default_mode(device))
    }

    /// Attaches a classifier at a tcx hook.
    ///
    /// # Errors
    /// EINVAL: no classifier. Else as [`crate::MultiHook::attach`].
    pub fn attach_tcx(
        &self,
        device: &Device,
        direction: Direction,
        prog: &Arc<Program>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        check_type(prog, ProgType::SchedCls)?;
        let hook = device.tcx(direction);
        hook.attach(prog, None, anchor, expected_revision)
    }

    /// Attaches a classifier at a tcx hook through a link.
    ///
    /// # Errors
    /// As [`Net::attach_tcx`].
    pub fn link_tcx(
        &self,
        device: &Arc<Device>,
        direction: Direction,
        prog: &Arc<Program>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<Arc<LinkObject>, Error> {
        check_type(prog, ProgType::SchedCls)?;
        links::link_tcx(self, device, direction, prog, anchor, expected_revision)
    }

    /// Attaches a program to a cgroup through a link, with ALLOW_MULTI.
    ///
    /// # Errors
    /// EINVAL: no cgroup skb program. Else as [`Cgroup::attach`].
    pub fn link_cgroup(
        &self,
        cgroup: &Arc<Cgroup>,
        direction: Direction,
        prog: &Arc<Program>,
        how: &CgroupAttach,
    ) -> Result<Arc<LinkObject>, Error> {
        check_type(prog, ProgType::CgroupSkb)?;
        let flags = how.flags | bits::ALLOW_MULTI;
        let how = CgroupAttach {
            flags,
            ..how.clone()
        };
        links::link_cgroup(self, cgroup, direction, prog, &how)
    }
}

pub(crate) fn check_type(prog: &Arc<Program>, wanted: ProgType) -> Result<(), Error> {
    if prog.prog_type() == wanted {
        return Ok(());
    }
    let message = format!(
        "program '{}' is of type {}, expected {wanted}",
        prog.name(),
        prog.prog_type()
    );
    Err(Error::new(Errno::EINVAL, message))
}
