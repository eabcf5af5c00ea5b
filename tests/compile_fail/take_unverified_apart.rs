// error: E0624
use countersign::receive::Unverified;

pub fn take_unverified_apart(request: Unverified<'_>) {
    let _ = request.into_parts();
}
