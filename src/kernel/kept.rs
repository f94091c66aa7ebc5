//! What is kept from some steps to the next look and the next steps.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use super::KernelError;
use super::conntrack::Forgetting;
use super::netfilter::{Ahead, Written};
use super::netlink::Socket;
use super::nft::{Nft, NftError};
use crate::model::kinds::firewall::Flows;
use crate::model::wire::NftMessage;

/// What outlives the steps it was needed for.
#[derive(Default, Debug)]
pub(super) struct Kept {
    /// Sockets of nfnetlink: closed right after a transaction each would wait for a grace period.
    pub(super) nft: Option<Nft>,
    /// Likewise.
    pub(super) conntrack: Option<Socket>,
    /// Flows that are being forgotten, and what notes that they are.
    pub(super) forgetting: Option<(Forgetting, Vec<NftMessage>)>,
    /// Whether that failed the last time. The note is missing, so it is tried again, and then waited for.
    pub(super) unforgotten: bool,
    /// Transactions of the steps under way.
    pub(super) commits: u32,
    /// What the last steps wrote to nftables.
    pub(super) written: Option<Written>,
    /// A look at nftables that has begun.
    pub(super) ahead: Option<Ahead>,
    /// Namespaces whose names were removed: the kernel is not to clean them up before all names are gone and the next look
    /// is over, both of which would wait for it again and again.
    pub(super) leaving: Vec<OwnedFd>,
}

impl Kept {
    /// Begins to forget flows, to note that they are in the end. Where that is at once: the note.
    pub(super) fn begin_forgetting(
        &mut self,
        flows: Flows,
        note: Vec<NftMessage>,
    ) -> Result<Option<Vec<NftMessage>>, KernelError> {
        match Forgetting::begin(self.conntrack.take(), flows)? {
            Forgetting::Over(Ok(socket)) => {
                self.conntrack = Some(socket);
                Ok(Some(note))
            }
            forgetting => {
                self.forgetting = Some((forgetting, note));
                Ok(None)
            }
        }
    }

    /// Waits until flows are forgotten, and notes that they are.
    pub(super) fn end_forgetting(&mut self) {
        let Some((forgetting, note)) = self.forgetting.take() else { return };
        let noted = forgetting.end().and_then(|socket| {
            self.conntrack = Some(socket);
            let mut nft = self.nft.take().map_or_else(Nft::open, Ok)?;
            let noted = match nft.commit(&note, None) {
                // Somebody has taken the tables away, which the next look sees. The flows are forgotten all the same.
                Err(NftError::Refused { source, .. }) if source.kind() == ErrorKind::NotFound => false,
                noted => noted.map(|()| true)?,
            };
            self.nft = Some(nft);
            Ok(noted)
        });
        match noted {
            Ok(true) => self.written.iter_mut().for_each(Written::goes_on),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "stale flows are not forgotten");
                self.unforgotten = true;
            }
        }
    }
}
