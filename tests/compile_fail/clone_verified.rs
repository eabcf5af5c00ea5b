// error: E0277
use countersign::verify::Verified;

pub fn clone_verified<'s>(request: &Verified<'s>) -> Verified<'s> {
    Clone::clone(request)
}
