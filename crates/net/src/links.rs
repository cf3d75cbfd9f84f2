//! Links at the hooks of devices and cgroups: what [`LinkObject`] asks of them.

use std::sync::{Arc, Weak};

use ring3_mprog::Anchor;
use ring3_objects::{Error, LinkDetail, LinkObject, LinkOps, Program};
use ring3_uapi::{AttachType, Errno, LinkType};

use crate::{
    Net,
    cgroup::{Cgroup, CgroupAttach},
    device::{Device, Direction},
    hook::{Held, HookSlot},
    xdp_request::XdpMode,
};

pub(crate) fn link_xdp(
    net: &Net,
    device: &Arc<Device>,
    prog: &Arc<Program>,
    mode: XdpMode,
) -> Result<Arc<LinkObject>, Error> {
    let ops = Arc::new(XdpLink(Arc::downgrade(device)));
    let link = LinkObject::create(net.system(), LinkType::Xdp, prog, ops, |id| {
        device.set_xdp_slot(|old| match old {
            Some(_) => {
                let message = format!("device '{}' has an XDP program", device.name());
                Err(Error::new(Errno::EBUSY, message))
            }
            None => {
                device.set_xdp_mode(mode);
                Ok(Some(HookSlot::new(prog, Some(id))))
            }
        })
    })?;
    device.hold_link(&link);
    Ok(link)
}

pub(crate) fn link_tcx(
    net: &Net,
    device: &Arc<Device>,
    direction: Direction,
    prog: &Arc<Program>,
    anchor: &Anchor<Held, u32>,
    expected_revision: Option<u64>,
) -> Result<Arc<LinkObject>, Error> {
    let ops = Arc::new(TcxLink {
        device: Arc::downgrade(device),
        direction,
    });
    let link = LinkObject::create(net.system(), LinkType::Tcx, prog, ops, |id| {
        let hook = device.tcx(direction);
        hook.attach(prog, Some(id), anchor, expected_revision)
    })?;
    device.hold_link(&link);
    Ok(link)
}

pub(crate) fn link_cgroup(
    net: &Net,
    cgroup: &Arc<Cgroup>,
    direction: Direction,
    prog: &Arc<Program>,
    how: &CgroupAttach,
) -> Result<Arc<LinkObject>, Error> {
    let ops = Arc::new(CgroupLink {
        cgroup: Arc::downgrade(cgroup),
        direction,
    });
    let link = LinkObject::create(net.system(), LinkType::Cgroup, prog, ops, |id| {
        cgroup.attach(direction, prog, Some(id), how)
    })?;
    cgroup.hold_link(&link);
    Ok(link)
}

struct CgroupLink {
    cgroup: Weak<Cgroup>,
    direction: Direction,
}

impl LinkOps for CgroupLink {
    fn update(&self, link: u32, _from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error> {
        let cgroup = self.cgroup.upgrade().ok_or_else(|| gone(link))?;
        cgroup.update_link(self.direction, link, to)
    }

    fn detach(&self, link: u32, _prog: &Arc<Program>) {
        if let Some(cgroup) = self.cgroup.upgrade() {
            // A link that is attached is a member of its hook, so this finds it.
            let _ = cgroup.detach(self.direction, None, Some(link), None);
        }
    }

    fn info(&self) -> LinkDetail {
        let attach_type = match self.direction {
            Direction::Ingress => AttachType::CgroupInetIngress,
            Direction::Egress => AttachType::CgroupInetEgress,
        };
        LinkDetail::Cgroup {
            cgroup_id: self.cgroup.upgrade().map_or(0, |cgroup| cgroup.id()),
            attach_type: attach_type.raw(),
        }
    }
}

fn gone(link: u32) -> Error {
    Error::new(
        Errno::ENOLINK,
        format!("link {link}: what it was attached to is gone"),
    )
}

struct XdpLink(Weak<Device>);

impl LinkOps for XdpLink {
    fn update(&self, link: u32, from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error> {
        let device = self.0.upgrade().ok_or_else(|| gone(link))?;
        let [old, new] = [from, to].map(|prog| prog.attr().expected_attach_type);
        if old != new {
            let message = format!("link {link}: expected attach type {new}, its program has {old}");
            return Err(Error::new(Errno::EINVAL, message));
        }
        device.set_xdp_slot(|_| Ok(Some(HookSlot::new(to, Some(link)))))
    }

    fn detach(&self, _link: u32, _prog: &Arc<Program>) {
        if let Some(device) = self.0.upgrade() {
            // Refused only inside of a program run, where links are not dropped.
            let _ = device.set_xdp_slot(|_| Ok(None));
        }
    }

    fn info(&self) -> LinkDetail {
        LinkDetail::Xdp {
            ifindex: self.0.upgrade().map_or(0, |device| device.ifindex()),
        }
    }
}

struct TcxLink {
    device: Weak<Device>,
    direction: Direction,
}

impl LinkOps for TcxLink {
    fn update(&self, link: u32, from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error> {
        let device = self.device.upgrade().ok_or_else(|| gone(link))?;
        device.tcx(self.direction).update_link(link, from, to)
    }

    fn detach(&self, link: u32, prog: &Arc<Program>) {
        if let Some(device) = self.device.upgrade() {
            let hook = device.tcx(self.direction);
            // A link that is attached is an entry of its hook, so this finds it.
            let _ = hook.detach(Some(prog), Some(link), &Anchor::none(), None);
        }
    }

    fn info(&self) -> LinkDetail {
        let attach_type = match self.direction {
            Direction::Ingress => AttachType::TcxIngress,
            Direction::Egress => AttachType::TcxEgress,
        };
        LinkDetail::Tcx {
            ifindex: self.device.upgrade().map_or(0, |device| device.ifindex()),
            attach_type: attach_type.raw(),
        }
    }
}
