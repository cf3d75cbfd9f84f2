//! `CallChain`: the call sites and functions between the main program and a frame.

use ring3_uapi::limits::CALL_FRAMES_MAX;

use crate::state::VerifierState;

/// No call site, no function.
const NONE: u32 = u32::MAX;

/// Where a frame stands: the functions from main to the current one and the calls between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallChain {
    /// Depth of the current frame; main is 0.
    pub(super) curframe: u8,
    /// `callsites[i]` is the call in frame `i` that made frame `i + 1`.
    pub(super) callsites: [u32; CALL_FRAMES_MAX - 1],
    /// Number of the function of each frame.
    subprogs: [u32; CALL_FRAMES_MAX],
}

impl CallChain {
    /// The chain of the main program (or of a global function that is verified on its own).
    pub(crate) fn new(subprog: u32) -> CallChain {
        let mut subprogs = [NONE; CALL_FRAMES_MAX];
        subprogs[0] = subprog;
        CallChain {
            curframe: 0,
            callsites: [NONE; CALL_FRAMES_MAX - 1],
            subprogs,
        }
    }

    /// The chain one call deeper; the chain itself if it has eight frames already.
    #[must_use]
    pub(crate) fn called(mut self, callsite: u32, subprog: u32) -> CallChain {
        let depth = usize::from(self.curframe);
        if depth + 1 < CALL_FRAMES_MAX {
            self.callsites[depth] = callsite;
            self.subprogs[depth + 1] = subprog;
            self.curframe += 1;
        }
        self
    }

    /// The chain of a state.
    pub(crate) fn of(st: &VerifierState) -> CallChain {
        let mut chain = CallChain::new(st.frame(0).subprogno());
        for frameno in 1..=st.curframe {
            let frame = st.frame(frameno);
            chain = chain.called(frame.callsite, frame.subprogno());
        }
        chain
    }

    /// The chain cut back to a frame.
    pub(super) fn at_frame(mut self, frame: u8) -> CallChain {
        for above in usize::from(frame)..usize::from(self.curframe) {
            self.callsites[above] = NONE;
            self.subprogs[above + 1] = NONE;
        }
        self.curframe = self.curframe.min(frame);
        self
    }

    pub(super) fn subprog(&self) -> u32 {
        self.subprogs[usize::from(self.curframe)]
    }
}
