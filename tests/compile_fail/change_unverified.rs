// error: E0616
use countersign::{receive::Unverified, route::Route};

pub fn change_unverified<'s>(request: &mut Unverified<'s>, other: &'s Route) {
    request.parts.route = other;
}
