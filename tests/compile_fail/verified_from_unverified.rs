// error: E0277
use countersign::{receive::Unverified, verify::Verified};

pub fn verified_from_unverified(request: Unverified<'_>) -> Verified<'_> {
    request.into()
}
